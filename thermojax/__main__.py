"""`python -m thermojax` is the command `thermojax`."""

import sys

from thermojax.cli import main

if __name__ == "__main__":
    sys.exit(main())
