"""The operators of the DAGs' tasks."""
