"""The benchmark of live items runs, and its models have the stated number of live items."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.live_items import measure, with_live_items
from benchmarks.synthetic.catalogues import SPECS, BuiltCatalogue, build
from inference_server.model.serving_model import open_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> BuiltCatalogue:
    return build(SPECS["tiny"], Path(tmp_path_factory.mktemp("bench")), log=lambda _: None)


def test_half_of_the_live_items_are_new(tiny: BuiltCatalogue) -> None:
    model = open_model(tiny.bundle.directory, verify_checksums=False)
    live = with_live_items(model, 100).live
    assert (live.num_recommendable, len(live.slots), len(live.dead)) == (100, 50, 0)
    assert with_live_items(model, 0).catalogue is model.bundle_catalogue


async def test_every_number_is_measured(tiny: BuiltCatalogue) -> None:
    microseconds = await measure(tiny, num_rounds=1)
    assert list(microseconds) == [0, 500, 5_000]
    assert all(figure > 0.0 for figures in microseconds.values() for figure in figures)
