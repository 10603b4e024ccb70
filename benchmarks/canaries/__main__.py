"""`python -m benchmarks.canaries`: plants bad versions on a real server, simulates harmless canaries, and writes
benchmarks/results/canary.md; some minutes."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.environment.bench import say
from benchmarks.environment.machine import describe_machine
from benchmarks.reporting.tables import table
from inference_server.canary.plan import Plan
from tandem.v1 import recommendation_pb2 as pb
from tests.support.canaries import (
    PLANTED,
    USERS,
    canary_until,
    operate,
    register_challenger,
    register_champion,
    traffic,
)
from tests.support.serving import MlflowRegistry, serve, valkey
from tests.support.simulated_canaries import Simulated, runs

_OUTPUT: Final = Path("benchmarks/results/canary.md")
_MODEL: Final = "canary-proof"
_PLAN: Final = Plan(step_seconds=5.0, step_answers=100)
_PATIENCE_SECONDS: Final = 300.0
_WORDS: Final = {
    "empty": "no item of it may be shown: empty lists",
    "slow": "its user tower takes tenths of a second",
    "nan": "its user tower makes NaN for every known user",
    "clicks": "its lists are clicked on a quarter as often",
    "good": "as good as the champion",
}
_SIMULATED: Final = {
    "as good as its control group": Simulated(),
    "as good, 60 users in each arm": Simulated(num_users=60),
    "all answers harmed": Simulated(more_harmed=1.0, answers_per_look=5),
    "20 % more answers harmed": Simulated(more_harmed=0.2, looks=120),
    "5 % more answers harmed": Simulated(more_harmed=0.05, looks=240),
    "20 % more answers slow": Simulated(more_slow=0.2, looks=120),
    "half of the clicks": Simulated(clicks_kept=0.5, looks=240),
    "80 % of the clicks": Simulated(clicks_kept=0.8, looks=400),
}


async def planted(kinds: Sequence[str]) -> list[tuple[str, pb.Canary]]:
    """How the canary of each planted version ended, on one server with one worker."""
    ended = []
    with tempfile.TemporaryDirectory(prefix="tandem-canary-") as name:
        directory = Path(name)
        registry = MlflowRegistry(directory / "registry")
        register_champion(registry, directory, model_name=_MODEL)
        async with (
            valkey(directory / "store") as store,
            serve(
                directory / "data",
                registry_uri=registry.uri,
                model_name=_MODEL,
                store_url=store.url,
                events_durability="memory",
                events_deadline_ms=60_000,
            ) as server,
            traffic(server),
        ):
            for kind in kinds:
                number = register_challenger(registry, directory, kind, model_name=_MODEL)
                await operate(directory / "data", "canary-start", plan=_PLAN, force=True)
                canary = await canary_until(
                    server,
                    lambda canary, name=f"canary-{number}": canary.experiment == name and canary.state != "running",
                    f"the canary {kind} is over",
                    patience_seconds=_PATIENCE_SECONDS,
                )
                say(f"{kind}: {canary.state}, {canary.reason}")
                ended.append((kind, canary))
    return ended


def simulated(case: tuple[str, int]) -> tuple[str, int, Counter[str], float]:
    """A name of _SIMULATED, how many canaries, by which guardrail they were taken back, and the median of the answers
    until then."""
    name, times = case
    ends = list(runs(_SIMULATED[name], times, seed=16))
    taken = [(broken.guardrail, answers) for broken, answers in ends if broken is not None]
    return name, times, Counter(guardrail for guardrail, _ in taken), median([n for _, n in taken]) if taken else 0.0


def page(ended: Sequence[tuple[str, pb.Canary]], simulations: Sequence[tuple[str, int, Counter[str], float]]) -> str:
    """The page."""
    rows = [
        (
            _WORDS[kind],
            f"{canary.state.replace('_', ' ')}: {canary.reason.partition(':')[0]}",
            f"{canary.step} of {len(canary.steps)}",
            f"{canary.answers:,}",
            f"{canary.harmed_answers:,}",
            f"{canary.harmed_share:.2%}",
            f"{canary.seconds:.1f}",
        )
        for kind, canary in ended
    ]
    by_kind = table(("planted version", "end", "step", "answers", "harmed", "share of all", "seconds"), rows)
    by_case = table(
        ("the canary is", "canaries", "answers at most", "taken back", "by", "answers until then, median"),
        [
            (
                name,
                f"{times:,}",
                f"{_SIMULATED[name].looks * _SIMULATED[name].answers_per_look:,}",
                f"{taken.total() / times:.1%}",
                ", ".join(f"{guardrail} {count}" for guardrail, count in taken.most_common()) or "-",
                f"{answers:,.0f}" if answers else "-",
            )
            for name, times, taken, answers in simulations
        ],
    )
    machine = describe_machine()
    return f"""# Canaries with planted versions

`make canary-proof`, {machine["date"]}. {machine["processor"]}, {machine["cores"]} cores, Python {machine["python"]}.
How a canary works is in [docs/experiments.md](../../docs/experiments.md#canary).

## On a real server

One worker, 8 callers at once, {len(USERS):,} users, steps of {_PLAN.shown_steps} % of them, each of
{_PLAN.step_seconds:g} s and {_PLAN.step_answers} answers by the canary at least. Answers are those to users of the
canary; the share is that of harmed ones among all answers of the server while the canary had users, and the seconds are
that time. Of fewer clicks, every answer counts as harmed. Others kept the machine busy.

{by_kind}

## Simulated

The guardrails alone, on users who differ: activity by a lognormal distribution, clicks (10 % of the answers) by a gamma
distribution, 3 % of the answers harmed, and 70 % of those to one user in fifty. A look after every 25 answers of each
arm (5 where all are harmed). No figure depends on the machine: a seed fixes them.

{by_case}
"""


def main() -> None:
    """Measures, and writes the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.canaries", description=__doc__)
    parser.add_argument("--canaries", type=int, default=400, help="harmless canaries to simulate (%(default)s)")
    parser.add_argument("--bad", type=int, default=60, help="bad canaries of each kind to simulate (%(default)s)")
    options = parser.parse_args()
    cases = [(name, options.canaries if name.startswith("as good") else options.bad) for name in _SIMULATED]
    with ProcessPoolExecutor(max(1, (os.cpu_count() or 1) - 1)) as processes:
        simulating = processes.map(simulated, cases)
        ended = asyncio.run(planted(tuple(PLANTED)))
        simulations = list(simulating)
    for simulation in simulations:
        say(f"{simulation}")
    _OUTPUT.write_text(page(ended, simulations))
    say(f"wrote {_OUTPUT}")


if __name__ == "__main__":
    main()
