"""Which images of a batch are new: its listing against the registry."""
