"""The model card: what whoever serves a bundle should know of it, in Markdown, inside the bundle.

After Mitchell et al. 2019, "Model Cards for Model Reporting".
"""

from __future__ import annotations

from dataclasses import dataclass

from tandem.contract.manifest import Manifest
from trainer.data.report import CleaningReport
from trainer.evaluation.comparison import Comparison
from trainer.rendering.render import render
from trainer.results.markdown import comparison_text


@dataclass(frozen=True, kw_only=True)
class CardContents:
    """What a card says beside what the manifest knows."""

    cleaning: CleaningReport
    comparison: Comparison
    """Test metrics; the model as it is served comes first."""
    config_toml: str
    """The training configuration as a file."""
    command: str
    """How to train the same again."""
    started_from: str = "scratch"
    """What the weights were before the training."""


def model_card(contents: CardContents, manifest: Manifest) -> str:
    """The card of a bundle whose manifest is complete but for its hashes."""
    return render(
        "model_card.md.j2",
        contents=contents,
        manifest=manifest,
        comparison_text=comparison_text(contents.comparison),
        ranking=ranking_of(manifest),
    )


def ranking_of(manifest: Manifest) -> str:
    """What orders the candidates, in words."""
    if manifest.ranker is not None:
        return "ONNX ranker"
    if manifest.blend is None:
        return "the two towers alone"
    words = f"blend, {manifest.blend.content_weight:.0%} content"
    if manifest.blend.item_item is not None:
        words += f", {manifest.blend.item_item.weight:.0%} of the rest by the item-item source"
    return words
