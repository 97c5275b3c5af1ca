"""Ordered files to a reproducible tar.gz."""
