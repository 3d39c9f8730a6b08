"""The programs that one runs: `python recipes/NAME.py --help` explains each."""
