"""A server in name only."""
