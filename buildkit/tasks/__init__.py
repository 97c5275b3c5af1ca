"""One module per task: what it needs, what it does, what it leaves behind."""
