"""What lies in object storage, and where."""
