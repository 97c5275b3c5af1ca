"""Container engines at hand, and the contract of the image."""
