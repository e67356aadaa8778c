"""What is asked of a Kubernetes cluster before a pod is: rights, and templates that lose nothing."""
