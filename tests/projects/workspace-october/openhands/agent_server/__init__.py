"""Stands in for openhands.agent_server."""
