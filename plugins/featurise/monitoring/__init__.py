"""What needs a person: found, put into words, and told once."""
