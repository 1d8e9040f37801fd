"""What a text states as its answer, and when two answers are the same. Loads no torch."""
