"""What a GPU's libraries and memory need watching for: operations checked against float64, batches that fit, faults."""
