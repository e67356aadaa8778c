"""Why an attempt at a shard failed, and what follows."""
