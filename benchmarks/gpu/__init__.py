"""Everything that needs a GPU, in one command and within the minutes given."""
