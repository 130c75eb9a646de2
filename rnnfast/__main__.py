"""`python -m rnnfast` is the same program as `rnnfast`."""

import sys

from rnnfast.cli import main

if __name__ == "__main__":
    sys.exit(main())
