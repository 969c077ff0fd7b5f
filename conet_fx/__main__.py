"""``python -m conet_fx``: the command line."""

import sys

from conet_fx.cli import main

if __name__ == "__main__":
    sys.exit(main())
