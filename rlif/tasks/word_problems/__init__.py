"""Grade-school word problems from templates of our own, with gold answers and worked solutions."""
