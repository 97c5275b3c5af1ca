"""Stands in for openhands.workspace."""
