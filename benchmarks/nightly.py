"""A nightly run on a real data set, from new events to the served model: the wall time of every step.

`python -m benchmarks.nightly --data "--dataset ml-1m" --champion "--set fit.max_minutes=5"` trains a champion, serves
it, records synthetic events of known and new users, waits until `feature_sync run` has archived them, and
runs `python -m deploy.nightly run`. Programs, store and registry are real and share this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from deploy.local.ports import free_port
from tandem.v1 import recommendation_pb2 as pb
from tests.support.programs import running_program
from tests.support.serving import Server, serve, valkey, wait_until
from trainer.dataset.dataset import Dataset, load_dataset

_EVENTS_PER_CALL: Final = 500
_NEW_USERS: Final = 0.05
"""Share of events whose user is not in the data set."""


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Runs everything; returns the JSON object that the nightly run printed."""
    data_dir = folder / "data"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")},
        "TANDEM_DATA_DIR": str(data_dir),
        "TANDEM_REGISTRY_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }
    data = shlex.split(options.data)
    champion = ("--no-promote", "--baselines", "popularity", *shlex.split(options.champion))
    trained = await _run("trainer", "train", *data, *champion, environment=environment)
    await _run("trainer", "promote", "--force", trained["registry_version"], environment=environment)
    async with valkey(folder / "valkey") as store:
        environment["TANDEM_STORE_URL"] = store.url
        await _run("feature_sync", "publish", "--prepared", trained["prepared"], environment=environment)
        sync = {**environment, "TANDEM_ARCHIVE_SECONDS": "1", "TANDEM_SYNC_METRICS_PORT": "0"}
        settings = {
            "registry_uri": environment["TANDEM_REGISTRY_URI"],
            "store_url": store.url,
            "http_port": free_port(),
        }
        async with (
            serve(folder / "server", **settings) as server,
            running_program("feature_sync", "run", environment=sync),
        ):
            await _record(server, load_dataset(Path(trained["prepared"])), options.events)
            await wait_until(lambda: _archived(data_dir) >= options.events, "events are archived", patience_seconds=600)
            night = {
                **environment,
                "TANDEM_NIGHTLY_DATA": shlex.join(data),
                "TANDEM_NIGHTLY_CONFIG": options.night,
                "TANDEM_NIGHTLY_SERVER": f"http://127.0.0.1:{server.http_port}",
                "TANDEM_NIGHTLY_FULL_ON": options.full_on,
            }
            return await _run("deploy.nightly", "run", environment=night, statuses=(0, 3))


async def _record(server: Server, dataset: Dataset, num_events: int) -> None:
    """Records clicks on items drawn by their popularity."""
    rng = np.random.default_rng(0)
    popularity = dataset.popularity(dataset.lengths).astype(float)
    rows = rng.choice(len(popularity), size=num_events, p=popularity / popularity.sum())
    users = [
        f"new-{rng.integers(num_events // 100 + 1)}" if rng.random() < _NEW_USERS else rng.choice(dataset.user_ids)
        for _ in range(num_events)
    ]
    events = [
        pb.Event(
            event_id=str(number),
            user_id=str(user),
            item_id=dataset.catalogue.item_ids[row],
            type=pb.EVENT_TYPE_CLICK,
        )
        for number, (user, row) in enumerate(zip(users, rows, strict=True))
    ]
    for start in range(0, num_events, _EVENTS_PER_CALL):
        request = pb.RecordEventsRequest(events=events[start : start + _EVENTS_PER_CALL])
        await server.stub.RecordEvents(request, timeout=60)


def _archived(data_dir: Path) -> int:
    from trainer.dataset.parquet import num_rows

    return sum(num_rows(path) for path in (data_dir / "events").glob("day=*/[!._]*.parquet"))


async def _run(*arguments: str, environment: dict[str, str], statuses: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Runs a program until it ends, with its log shown; returns the JSON object of its last line."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *arguments), env=environment, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode in statuses, f"{arguments[:2]} ended with status {process.returncode}"
    result: dict[str, Any] = json.loads(output.decode().strip().rpartition("\n")[2])
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures; prints the JSON object of the nightly run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nightly", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--data", default="--dataset ml-1m", metavar="WORDS", help="data options, as for `trainer prepare`"
    )
    parser.add_argument("--events", type=int, default=20_000, help="events to record (default: %(default)s)")
    parser.add_argument(
        "--champion",
        default="",
        metavar="WORDS",
        help="configuration of the champion's training, as for `trainer train`",
    )
    parser.add_argument("--night", default="", metavar="WORDS", help="configuration of the nightly training")
    parser.add_argument("--full-on", default="sunday", metavar="DAY", help="weekday of the full training")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tandem-nightly-") as folder:
        print(json.dumps(asyncio.run(measure(options, Path(folder))), indent=2))


if __name__ == "__main__":
    main()
