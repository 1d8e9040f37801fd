"""Speed and memory of this package and of its peers, each figure made by a command: see README and NOTES.md."""
