"""The output directory and the files in it."""
