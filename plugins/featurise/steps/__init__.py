"""The flow, in its order: discover, plan, extract, validate, publish, register, report."""
