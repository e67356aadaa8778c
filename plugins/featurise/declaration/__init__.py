"""What is to be done: the declaration of datasets and backbones, and a run's options."""
