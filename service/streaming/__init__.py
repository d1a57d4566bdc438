"""One camera over time."""
