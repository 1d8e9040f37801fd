"""`python -m rlif` is `rlif`."""

from rlif.cli import program

if __name__ == "__main__":
    program()
