"""Files, in order, to a reproducible tar.gz."""
