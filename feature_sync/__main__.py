"""`python -m feature_sync`: see `feature_sync.commands`."""

import sys

from feature_sync.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
