"""A run on Kubernetes: what is sent to its API server, and what the answers mean."""
