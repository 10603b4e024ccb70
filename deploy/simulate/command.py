"""The commands `world` and `run`."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

from deploy.simulate.ledger import Ledger
from deploy.simulate.load import LoadSettings, drive
from deploy.simulate.settings import WorldSettings
from deploy.simulate.summary import summary
from deploy.simulate.world import World
from deploy.simulate.world_files import DATASET, read_world, write_world
from tandem.ops.arguments import given, number, path, whole_number, word
from tandem.ops.command_line import EXIT_INTERRUPTED


def add_world_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what makes a world."""
    default = WorldSettings()
    parser.add_argument("--seed", type=whole_number(0), default=default.seed, help="(default: %(default)s)")
    parser.add_argument(
        "--users",
        type=whole_number(1, 1_000_000),
        default=default.users,
        help="users with a history before the first day (default: %(default)s)",
    )
    parser.add_argument(
        "--items",
        type=whole_number(20, 100_000),
        default=default.items,
        help="items in the catalogue before the first day (default: %(default)s)",
    )
    parser.add_argument(
        "--new-users",
        type=whole_number(0, 1_000_000),
        default=default.new_users,
        help="users who arrive during the simulated days (default: %(default)s)",
    )
    parser.add_argument(
        "--new-items",
        type=whole_number(0, 100_000),
        default=default.new_items,
        help="items that arrive during the simulated days (default: %(default)s)",
    )
    parser.add_argument(
        "--days",
        type=whole_number(1, 10_000),
        default=default.days,
        help="simulated days (default: %(default)s)",
    )
    parser.add_argument(
        "--drift",
        type=number(0, 1),
        default=default.drift,
        metavar="RADIANS",
        help="angle by which tastes turn every day (default: %(default)s)",
    )
    parser.add_argument(
        "--events-per-user",
        type=whole_number(4, 1_000),
        default=default.events_per_user,
        help="mean number of choices of a user in the history (default: %(default)s)",
    )


def add_load_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds how a server is driven."""
    default = LoadSettings(address="")
    parser.add_argument(
        "--rate",
        type=number(0.1, 100_000),
        default=default.rate,
        metavar="VISITS",
        help="visits that begin per second, at most (default: %(default)g)",
    )
    parser.add_argument(
        "--concurrency",
        type=whole_number(1, 10_000),
        default=default.concurrency,
        help="visits at once, at most (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds-per-day",
        type=number(0, 86_400),
        default=default.seconds_per_day,
        metavar="SECONDS",
        help="least duration of a simulated day (default: no pause between days)",
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` takes beside the load."""
    default = LoadSettings(address="")
    parser.add_argument("--address", type=given, default="grpc://127.0.0.1:50051", help="(default: %(default)s)")
    parser.add_argument("--world", type=path, required=True, metavar="DIR", help="folder that `world` has written")
    parser.add_argument("--days", type=whole_number(1, 10_000), default=default.days, help="(default: %(default)s)")
    parser.add_argument(
        "--users", type=whole_number(1), metavar="NUMBER", help="the first users of the world alone (default: all)"
    )
    parser.add_argument("--seed", type=whole_number(0), default=default.seed, help="of what users do (default: 1)")
    parser.add_argument(
        "--scenario",
        type=word,
        metavar="NAME",
        help="scenario of the requests (default: none)",
    )
    parser.add_argument(
        "--placements",
        type=word,
        nargs="+",
        default=list(default.placements),
        metavar="NAME",
        help="of the first list of a visit, the second and so on (default: home product)",
    )
    parser.add_argument(
        "--num-items",
        type=whole_number(1, 500),
        default=default.num_items,
        help="items of a list (default: %(default)s)",
    )
    parser.add_argument(
        "--wait",
        type=number(0.1, 3_600),
        default=default.ready_seconds,
        metavar="SECONDS",
        help="how long the server may take to answer (default: %(default)g)",
    )
    parser.add_argument("--ledger", type=path, metavar="FILE", help="write all figures to this file, as JSON")
    parser.add_argument("--api-key", type=given, help="an API key with the rights to recommend and to record")
    add_load_arguments(parser)


def world_settings(options: argparse.Namespace) -> WorldSettings:
    """The settings that `add_world_arguments` has added."""
    return WorldSettings(**{field.name: getattr(options, field.name) for field in fields(WorldSettings)})


def make(options: argparse.Namespace) -> int:
    """The command `world`: writes a data set. Raises UsageError."""
    settings = world_settings(options)
    world = write_world(options.folder, settings, until=midnight())
    print(
        f"{options.folder}: {settings.users:,} users and {settings.items:,} items with a history; "
        f"{settings.new_users:,} users and {settings.new_items:,} items arrive later"
    )
    print(json.dumps({"dataset": str(options.folder / DATASET), "users": world.num_users, "items": world.num_items}))
    return 0


def run(options: argparse.Namespace) -> int:
    """The command `run`: drives a server and prints what happened. Raises UsageError and LoadFailed."""
    world = read_world(options.world)
    settings = LoadSettings(
        address=options.address,
        days=options.days,
        users=options.users,
        seconds_per_day=options.seconds_per_day,
        rate=options.rate,
        concurrency=options.concurrency,
        scenario=options.scenario or "",
        placements=tuple(options.placements),
        num_items=options.num_items,
        seed=options.seed,
        ready_seconds=options.wait,
        api_key=options.api_key,
    )
    ledger, is_whole = asyncio.run(_until_interrupted(world, settings))
    print(summary(ledger), flush=True)
    if options.ledger:
        write_ledger(options.ledger, ledger)
    return 0 if is_whole else EXIT_INTERRUPTED


async def _until_interrupted(world: World, settings: LoadSettings) -> tuple[Ledger, bool]:
    """What happened, and whether all days were over. After Ctrl-C, visits that have begun end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for told in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(told, stop.set)
    ledger = await drive(world, settings, on_day=print_day, stop=stop)
    return ledger, not stop.is_set()


def print_day(day: int, ledger: Ledger) -> None:
    """One line after a day."""
    total = ledger.all
    print(
        f"day {day + 1}: {total.answers:,} answers so far, {total.ctr:.2%} of the items clicked, "
        f"{total.purchases:,} purchases, {sum(ledger.errors.values()):,} errors",
        flush=True,
    )


def write_ledger(file: Path, ledger: Ledger) -> None:
    """Writes all figures as JSON."""
    file.write_text(json.dumps(ledger.as_json(), indent=2), encoding="utf-8")


def midnight() -> datetime:
    """The first moment of today, UTC. Histories end there, so that what is simulated comes after them."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
