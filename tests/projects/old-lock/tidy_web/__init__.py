from tidy_web.cli import main

__all__ = ["main"]
