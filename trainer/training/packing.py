"""Packs windows of different lengths into rows without padding between them.

Most histories are short and a few are long. Packed into rows, where a segment number keeps each history to itself, they
cost the user tower about as much as their events; padded to the longest, they cost several times that. The vectors are
the same (a test compares the two). Krell et al., "Efficient Sequence Packing without Cross-contamination", 2021, call
it sequence packing. Rows are filled in the order of the windows (next fit), so a batch holds the windows that were
drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Positions of the windows' events in packed rows. Events are ordered by window, oldest first."""

    windows: Tensor
    """(events,) int64, index of each event's window among the packed windows."""
    columns: Tensor
    """(events,) int64, the column of each event in its window, which is aligned to the right."""
    cells: Tensor
    """(events,) int64, the cell of each event in the flattened rows."""
    num_rows: int
    row_length: int

    def packed(self, values: Tensor) -> Tensor:
        """Values of the events, (events, ...), in their cells; all other cells are zero: (rows, row_length, ...)."""
        shape = values.shape[1:]
        cells = torch.zeros(self.num_rows * self.row_length, *shape, dtype=values.dtype, device=values.device)
        filled = cells.index_copy(0, self.cells.to(values.device), values)
        return filled.view(self.num_rows, self.row_length, *shape)

    def unpacked(self, rows: Tensor) -> Tensor:
        """Values of the events, (events, ...), from packed rows, (rows, row_length, ...)."""
        return rows.flatten(0, 1)[self.cells.to(rows.device)]


def pack(lengths: Tensor, history_length: int) -> Packing:
    """Packs windows of `lengths` events, (windows,) int64, each 1 to `history_length`."""
    row_length = int(lengths.max())
    starts: list[int] = []
    row, used = 0, 0
    for length in lengths.tolist():
        if used + length > row_length:
            row, used = row + 1, 0
        starts.append(row * row_length + used)
        used += length
    windows = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    index_in_window = torch.arange(len(windows)) - torch.repeat_interleave(torch.cumsum(lengths, 0) - lengths, lengths)
    return Packing(
        windows=windows,
        columns=history_length - lengths[windows] + index_in_window,
        cells=torch.tensor(starts, dtype=torch.int64)[windows] + index_in_window,
        num_rows=row + 1,
        row_length=row_length,
    )
