"""Commands beside the run: benchmarks, inspection, synthetic checkpoints."""
