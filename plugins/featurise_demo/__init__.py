"""The whole platform on one machine: what `make demo` runs, and what the end-to-end tests drive."""
