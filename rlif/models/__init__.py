"""A language model, and what is done to one."""
