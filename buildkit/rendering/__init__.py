"""Templates, and Dockerfiles as text that can be read and changed."""
