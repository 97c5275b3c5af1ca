"""A small agent server: health, a shell and files over HTTP, with the standard library only."""

__version__ = "1.0.0"
