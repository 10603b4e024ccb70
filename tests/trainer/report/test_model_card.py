"""The model card of a bundle."""

from __future__ import annotations

from tests.support.tiny_bundle import TinySpec, build_tiny_bundle
from tests.trainer.report.reports import small_report
from trainer.data.report import CleaningReport, FileReport
from trainer.report.model_card import CardContents, model_card


def _contents() -> CardContents:
    report = small_report()
    cleaning = FileReport(
        role="interactions",
        path="rows.csv",
        rows_read=1_200,
        rows_kept=1_000,
        dropped={"duplicate": 200},
        noted={},
        bad_lines=(),
    )
    return CardContents(
        cleaning=CleaningReport(files=(cleaning,)),
        comparison=report.comparison,
        config_toml=report.config_toml,
        command=report.command,
    )


def test_the_card_describes_the_bundle(tmp_path) -> None:
    bundle = build_tiny_bundle(tmp_path / "bundle", TinySpec(content_weight=0.3))
    card = model_card(_contents(), bundle.manifest)
    lines = card.splitlines()
    assert lines[0] == f"# {bundle.manifest.model_version}"
    assert "| interactions | 1,200 rows read, 1,000 kept, 200 duplicate |" in lines
    assert any(line.startswith("| as served | 0.1000 [") for line in lines)
    assert "Difference from popularity" in card
    assert "ndcg@10 by segment." in lines
    assert "| ranking | blend, 30% content |" in lines
    assert f"| fingerprint of the prepared data | `{bundle.manifest.training_data.fingerprint}` |" in lines
    assert "python -m trainer train --dataset checkerboard.toml" in lines
    tables = [line for line in lines if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
