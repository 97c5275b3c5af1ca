"""Stands in for foo."""
