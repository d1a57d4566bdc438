"""Keys, rates and certificates."""
