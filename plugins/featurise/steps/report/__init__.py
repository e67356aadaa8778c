"""One page per run, whatever happened in it."""
