"""`python -m marketd.ops`: how the supervisor starts its actors."""

import sys

from marketd.ops.cli import main

if __name__ == "__main__":
    sys.exit(main())
