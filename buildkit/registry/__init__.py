"""Image registries, asked what they have; below both the command `images` and the server."""
