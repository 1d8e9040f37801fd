"""How everything that is kept is written whole, resumed and described. Loads no torch."""
