"""Stands in for alpha."""
