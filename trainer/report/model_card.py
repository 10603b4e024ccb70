"""The model card: what whoever serves a bundle should know of it, in Markdown, inside the bundle.

After Mitchell et al. 2019, "Model Cards for Model Reporting".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tandem.contract.manifest import Manifest
from trainer.data.report import CleaningReport
from trainer.report.contents import Difference, Measured
from trainer.report.html import SEGMENT_METRIC, metric_names
from trainer.report.rendering import render


@dataclass(frozen=True, kw_only=True)
class CardContents:
    """What a card says beside what the manifest knows."""

    cleaning: CleaningReport
    protocol: str
    """How the test items were chosen and ranked, in a sentence."""
    num_test_users: int
    measured: Sequence[Measured]
    """The model as it is served comes first."""
    differences: Sequence[Difference]
    config_toml: str
    """The training configuration as a file."""
    command: str
    """How to train the same again."""


def model_card(contents: CardContents, manifest: Manifest) -> str:
    """The card of a bundle whose manifest is complete but for its hashes."""
    return render(
        "model_card.md.j2",
        contents=contents,
        manifest=manifest,
        metric_names=metric_names(contents.measured),
        with_segments=[model for model in contents.measured if model.segments],
        segment_metric=SEGMENT_METRIC,
        whole_list_names=list(dict.fromkeys(name for model in contents.measured for name in model.whole_lists)),
    )
