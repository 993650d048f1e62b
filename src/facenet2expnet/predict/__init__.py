"""A finished model at work."""
