"""Stands in for openhands.sdk."""
