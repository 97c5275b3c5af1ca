"""Stands in for old."""
