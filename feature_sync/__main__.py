"""`python -m feature_sync`: see `feature_sync.commands`."""

import sys

from feature_sync.commands.cli import main
from tandem.ops.process_start import start_process

if __name__ == "__main__":
    start_process()
    sys.exit(main(sys.argv[1:]))
