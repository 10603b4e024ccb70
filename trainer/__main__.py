"""`python -m trainer`: see `trainer.commands`."""

import sys

from tandem.ops.process_start import start_process
from trainer.commands.cli import main

if __name__ == "__main__":
    start_process()
    sys.exit(main(sys.argv[1:]))
