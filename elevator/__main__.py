"""`python -m elevator`: the command line."""

import sys

from elevator.cli import main

if __name__ == "__main__":
    sys.exit(main())
