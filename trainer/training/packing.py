"""Packs windows of different lengths into rows without padding between them.

Most histories are short and a few are long. Side by side in one row, each kept to itself by its segment, they cost the
user tower about as much as their events; padded to the longest, they cost several times that. The vectors are the same
(a test holds the two together). Called sequence packing by Krell et al., "Efficient Sequence Packing without
Cross-contamination", 2021; rows are filled in the order of the windows (next fit), so a batch stays what was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where the events of some windows lie in packed rows; events are counted window by window, oldest first."""

    windows: Tensor
    """(events,) int64, the window of each event: its place in what was packed."""
    columns: Tensor
    """(events,) int64, the column of each event in its window, which lies at the right."""
    cells: Tensor
    """(events,) int64, the cell of each event in the flattened rows."""
    num_rows: int
    row_length: int

    def packed(self, of_events: Tensor) -> Tensor:
        """Values of events, (events, ...), in their cells, and zeros in the others: (rows, row_length, ...)."""
        shape = of_events.shape[1:]
        cells = torch.zeros(self.num_rows * self.row_length, *shape, dtype=of_events.dtype, device=of_events.device)
        placed = cells.index_copy(0, self.cells.to(of_events.device), of_events)
        return placed.view(self.num_rows, self.row_length, *shape)

    def unpacked(self, rows: Tensor) -> Tensor:
        """Values of the events of (rows, row_length, ...): (events, ...)."""
        return rows.flatten(0, 1)[self.cells.to(rows.device)]


def pack(lengths: Tensor, history_length: int) -> Packing:
    """Packs windows with these numbers of events, (windows,) int64, each 1 to `history_length`."""
    row_length = int(lengths.max())
    starts: list[int] = []
    row, used = 0, 0
    for length in lengths.tolist():
        if used + length > row_length:
            row, used = row + 1, 0
        starts.append(row * row_length + used)
        used += length
    windows = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    nth = torch.arange(len(windows)) - torch.repeat_interleave(torch.cumsum(lengths, 0) - lengths, lengths)
    return Packing(
        windows=windows,
        columns=history_length - lengths[windows] + nth,
        cells=torch.tensor(starts, dtype=torch.int64)[windows] + nth,
        num_rows=row + 1,
        row_length=row_length,
    )
