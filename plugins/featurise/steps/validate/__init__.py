"""A shard's file against its manifest, the contract and the feature set's history."""
