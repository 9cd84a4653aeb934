"""`python -m crossent`: the `crossent` command, with the current directory on Python's path."""

import sys

from crossent.cli import main

if __name__ == "__main__":
    sys.exit(main())
