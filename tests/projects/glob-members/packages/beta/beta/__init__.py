"""Stands in for beta."""
