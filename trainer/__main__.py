"""`python -m trainer`: see `trainer.commands`."""

import sys

from trainer.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
