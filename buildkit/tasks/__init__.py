"""One module per task: what it needs, what it does and what it leaves behind."""
