"""The language model's head: its product with hidden states, in tiles."""
