"""`python -m trainer`: see `trainer.commands`."""

import sys

from tandem.ops.process_start import start_process

if __name__ == "__main__":
    start_process()
    from trainer.commands.cli import main  # after the start, so that Ctrl-C ends this import without a word too

    sys.exit(main(sys.argv[1:]))
