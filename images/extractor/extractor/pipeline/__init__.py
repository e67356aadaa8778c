"""From a manifest to a shard's file: load, decode, batch, compute, save."""
