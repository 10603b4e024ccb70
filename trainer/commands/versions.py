"""`versions`: lists the registered versions, with their aliases and the gate's verdicts."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass

from tandem.ops.arguments import whole_number
from trainer.core.settings import Settings

SUMMARY = "list the registered versions with their aliases, the gate's verdicts and their metrics"
_SHOWN_METRICS = ("gate/ndcg@10", "gate/recall@10", "gate/coverage", "test/ndcg@10")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument(
        "--limit",
        type=whole_number(0),
        default=20,
        metavar="N",
        help="number of versions to show, newest first; 0: all (default: %(default)s)",
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Lists the versions, newest first; the last line of the output is one JSON object for the next program."""
    from tandem.contract.names import GATE_AGAINST_TAG, GATE_TAG, ROLLED_BACK_TAG
    from trainer.registry.registry import Registry

    registry = Registry(settings)
    aliases_by_number: dict[str, list[str]] = {}
    for alias, number in registry.aliases().items():
        aliases_by_number.setdefault(number, []).append(alias)
    listed = [
        _Listed(
            registry_version=version.number,
            model_version=version.model_version,
            aliases=sorted(aliases_by_number.get(version.number, [])),
            gate=version.tags.get(GATE_TAG, ""),
            gate_against=version.tags.get(GATE_AGAINST_TAG, ""),
            rolled_back_at=version.tags.get(ROLLED_BACK_TAG, ""),
            metrics={name: value for name, value in registry.metrics(version).items() if name in _SHOWN_METRICS},
        )
        for version in registry.versions()[: options.limit or None]
    ]
    for version in listed:
        print(version)
    print(json.dumps({"versions": [asdict(version) for version in listed]}))
    return 0


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """A version as it is listed."""

    registry_version: str
    model_version: str
    aliases: list[str]
    gate: str
    """"passed", "refused", or empty if it was not judged."""
    gate_against: str
    rolled_back_at: str
    metrics: dict[str, float]

    def __str__(self) -> str:
        parts = [f"{self.registry_version:>4}  {self.model_version}"]
        parts += [f"[{', '.join(self.aliases)}]"] if self.aliases else []
        against = f" against {self.gate_against}" if self.gate_against else ""
        parts.append(f"gate: {self.gate or 'not judged'}{against}")
        parts += [f"rolled back at {self.rolled_back_at}"] if self.rolled_back_at else []
        return "  ".join([*parts, *(f"{name} {value:.4f}" for name, value in self.metrics.items())])
