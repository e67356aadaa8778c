"""What the control plane shares with the extractor: light, without torch."""
