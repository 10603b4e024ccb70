"""`python -m inference_server`: see `inference_server.commands`."""

import sys

from inference_server.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
