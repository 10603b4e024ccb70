"""`python -m deploy.unleash`: runs an Unleash until Ctrl-C, and says how to reach it."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import NoReturn

from deploy.unleash.server import UnleashFailed, UnleashMissing, UnleashServer
from tandem.ops.settings_types import default_data_dir

_PORT = 4242


def main() -> int:
    """Returns the exit status: 1 if Unleash cannot run."""
    parser = argparse.ArgumentParser(prog="deploy.unleash", description=__doc__)
    parser.add_argument("--port", type=int, default=_PORT, help=f"port of the API and the console (default {_PORT})")
    parser.add_argument("--folder", type=Path, default=default_data_dir() / "unleash", help="its database and tokens")
    options = parser.parse_args()
    try:
        server = UnleashServer(options.folder, port=options.port)
    except UnleashMissing as error:
        print(f"deploy.unleash: {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    try:
        server.start()
        token = options.folder / "backend-token"
        token.touch(0o600)
        token.write_text(server.backend_token)
        console = server.url.removesuffix("/api")
        print(f"Unleash answers at {console} (console: user admin, password unleash4all). For Tandem:")
        print(f"TANDEM_UNLEASH_URL={server.url}\nTANDEM_UNLEASH_TOKEN_FILE={token}", flush=True)
        while True:
            signal.pause()
    except UnleashFailed as error:
        print(f"deploy.unleash: {error}", file=sys.stderr)
        return 1
    finally:
        server.stop()


def _end(_: int, __: object) -> NoReturn:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
