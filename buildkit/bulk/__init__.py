"""Many images from one context: what is wanted, what is there, what is built, and what people see of it."""
