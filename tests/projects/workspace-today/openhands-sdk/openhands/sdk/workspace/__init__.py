"""`workspace/` in .dockerignore must not reach this."""
