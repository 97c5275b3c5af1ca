"""Settings: which there are, how their text is read, and where their values come from."""
