"""`python -m rnnfast` is the same program as `rnnfast`."""

import sys

from rnnfast.program.cli import main

if __name__ == "__main__":
    sys.exit(main())
