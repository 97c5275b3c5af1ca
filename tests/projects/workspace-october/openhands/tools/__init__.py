"""Stands in for openhands.tools."""
