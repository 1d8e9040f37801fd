"""Tasks that need no download: problems, a teacher who makes mistakes, and a small base model trained on its traces."""
