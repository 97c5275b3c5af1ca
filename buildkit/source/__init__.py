"""The source tree: what its project file, git and ignore rules say, and which files are packed."""
