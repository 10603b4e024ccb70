"""The model card: what an operator should know about a bundle, in Markdown, inside the bundle.

After Mitchell et al. 2019, "Model Cards for Model Reporting".
"""

from __future__ import annotations

from dataclasses import dataclass

from tandem.contract.manifest import Manifest
from trainer.data.report import CleaningReport
from trainer.evaluation.comparison import Comparison
from trainer.rendering.render import render
from trainer.results.markdown import comparison_text
from trainer.sources.all_sources import blended_sources


@dataclass(frozen=True, kw_only=True)
class CardContents:
    """Contents of a card that are not in the manifest."""

    cleaning: CleaningReport
    comparison: Comparison
    """Test metrics; the model as it is served comes first."""
    config_toml: str
    """The training configuration as a file."""
    command: str
    """Command that trains the same model again."""
    started_from: str = "scratch"
    """Origin of the weights before the training."""


def model_card(contents: CardContents, manifest: Manifest) -> str:
    """The card of a bundle whose manifest is complete except for its hashes."""
    return render(
        "model_card.md.j2",
        contents=contents,
        manifest=manifest,
        comparison_text=comparison_text(contents.comparison),
        ranking=ranking_of(manifest),
    )


def ranking_of(manifest: Manifest) -> str:
    """Description of the method that ranks candidates."""
    if manifest.ranker is not None:
        return "ONNX ranker"
    if manifest.blend is None:
        return "the two towers alone"
    words = f"blend, {manifest.blend.content_weight:.0%} content"
    if manifest.blend.item_item is not None:
        words += f", {manifest.blend.item_item.weight:.0%} of the rest by the item-item source"
    if manifest.blend.sequential is not None:
        words += f", {manifest.blend.sequential.weight:.0%} of what remains by the sequential source"
    return words + _alone(manifest)


def _alone(manifest: Manifest) -> str:
    """What each part of the blend reaches alone on validation, the best first; empty for figures of an older run."""
    labels = {"two_tower": "two towers", **{source.key: source.label for source in blended_sources()}}
    found = {
        label: manifest.metrics[name]
        for key, label in labels.items()
        if (name := f"validation/{key}/ndcg@10") in manifest.metrics
    }
    if len(found) < 2:
        return ""
    best_first = sorted(found, key=found.__getitem__, reverse=True)
    figures = ", ".join(f"{label} {found[label]:.4f}" for label in best_first)
    return f". Alone on validation, NDCG@10: {figures}; most comes from: {best_first[0]}"
