"""Packed rows give the same vectors as padded rows."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.training.fitting import NUM_ITEMS, ring_config, ring_data
from trainer.models.history_encoder import Layout
from trainer.models.two_tower import TwoTowerModel
from trainer.training.packing import pack
from trainer.training.step import encode_items
from trainer.training.windows import training_windows


def test_windows_fill_rows_in_their_order() -> None:
    packing = pack(torch.tensor([3, 1, 2, 4]), history_length=5)
    assert (packing.num_rows, packing.row_length) == (3, 4)
    assert packing.packed(packing.windows + 1).tolist() == [[1, 1, 1, 2], [3, 3, 0, 0], [4, 4, 4, 4]]
    assert packing.columns.tolist() == [2, 3, 4, 4, 3, 4, 1, 2, 3, 4]
    assert packing.unpacked(packing.packed(torch.arange(10))).tolist() == list(range(10))


@pytest.mark.parametrize("user_tower", ["transformer", "mean"])
@pytest.mark.parametrize("has_ages", [True, False])
def test_packed_rows_give_the_vectors_of_padded_rows(user_tower: str, has_ages: bool) -> None:
    config = ring_config(towers__user_tower=user_tower, towers__user_ids="true", towers__history_features="true")
    encoded = ring_data(config)
    torch.manual_seed(0)
    model = TwoTowerModel(config.towers, encoded.schema, num_items=NUM_ITEMS, num_users=60).eval()
    for parameter in model.parameters():  # biases and feature embeddings start at zero
        torch.nn.init.normal_(parameter, std=0.3)
    windows = training_windows(encoded.dataset, encoded.schema, encoded.dataset.lengths)
    items = encode_items(
        model, {name: torch.from_numpy(array) for name, array in encoded.item_tensors.items()}, torch.arange(NUM_ITEMS)
    )
    present = windows.event_codes != 0
    history = torch.where(present[..., None], items[windows.history_rows.clamp(min=0)], 0.0)
    padded = model.user_tower.sequence(
        history,
        windows.event_codes,
        windows.ages if has_ages else None,
        windows.feature_codes,
        windows.user_index,
    )
    packing = pack(windows.lengths, windows.history_rows.shape[1])
    events = (packing.windows, packing.columns)
    assert packing.num_rows < len(windows)
    packed = model.user_tower.sequence(
        packing.packed(history[events]),
        packing.packed(windows.event_codes[events]),
        packing.packed(windows.ages[events]) if has_ages else None,
        packing.packed(windows.feature_codes[events]),
        packing.packed(windows.user_index[packing.windows]),
        layout=Layout(segments=packing.packed(packing.windows + 1), positions=packing.packed(packing.columns)),
    )
    torch.testing.assert_close(packing.unpacked(packed), padded[present], rtol=1e-4, atol=1e-5)
