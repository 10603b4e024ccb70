"""`python -m inference_server`: see `inference_server.commands`."""

import sys

from inference_server.commands.cli import main
from tandem.ops.process_start import start_process

if __name__ == "__main__":
    start_process()
    sys.exit(main(sys.argv[1:]))
