"""The item index: FAISS IVF, filtered inside the search. The only module that imports faiss."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Final

import faiss
import numpy as np
import numpy.typing as npt

from inference_server.model.catalogue.bitmap import bitmap_of_mask, rows_in, without_rows
from inference_server.model.engine.search import Allowed, Found, nothing_found
from tandem.contract.errors import BundleCorrupt, BundleIncompatible
from tandem.contract.vocabulary import Rows

# Queries come one batch at a time from an event loop: threads inside FAISS would only wait for each other.
faiss.omp_set_num_threads(1)

MAX_EXTRA: Final = 400
"""Most excluded items for which more are fetched and the excluded ones dropped: users of one batch then share one
search. With more of them a search with a bitmap is faster."""
_MARGIN: Final = 4
"""A filtered search looks at so many lists that they hold this many times the items asked for, if the allowed ones are
spread evenly; where they are not, the search widens."""
_WIDENING: Final = 4


class ItemIndex:
    """Nearest allowed items of user vectors. Safe to call from several threads."""

    def __init__(self, path: Path, *, item_vectors: npt.NDArray[np.float32], nprobe: int) -> None:
        """Maps an index over (items, dim) vectors into memory; processes that map the same file share its pages.

        Raises BundleCorrupt when FAISS cannot read the file, BundleIncompatible when it is not an inner-product IVF
        index of this size and dimension.
        """
        num_items, dim = item_vectors.shape
        try:
            # IO_FLAG_MMAP alone makes queries about 7 times slower; with _IFC they run at full speed.
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise BundleCorrupt(f"{path.name}: FAISS cannot read it: {str(error).splitlines()[0]}") from error
        if not isinstance(index, faiss.IndexIVF):
            raise BundleIncompatible(f"{path.name} is a {type(index).__name__}, not an IVF index")
        if index.d != dim:
            raise BundleIncompatible(f"{path.name} has dimension {index.d}, the manifest says {dim}")
        if index.ntotal != num_items:
            raise BundleIncompatible(f"{path.name} holds {index.ntotal} vectors for {num_items} items")
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise BundleIncompatible(f"{path.name} does not rank by inner product")
        self._index = index
        self._item_vectors = np.asarray(item_vectors)
        self._nprobe = min(nprobe, index.nlist)
        self._visible = bitmap_of_mask(np.ones(num_items, dtype=np.bool_))
        self._selector: faiss.IDSelectorBitmap | None = None
        """Of the visible rows; None while all are."""
        self._num_rows = num_items
        self._free_scratch: list[npt.NDArray[np.bool_]] = []
        self.num_items: Final = num_items

    def hiding(self, rows: Rows, *, num_rows: int) -> ItemIndex:
        """The same index in a catalogue of `num_rows` >= items, whose filters may name rows that are not in the index.
        It finds none of these rows of its own, (n,) int64."""
        view = copy.copy(self)
        view._visible = np.zeros(-(-num_rows // 8), dtype=np.uint8)
        own = without_rows(bitmap_of_mask(np.ones(self.num_items, dtype=np.bool_)), rows)
        view._visible[: len(own)] = own
        # FAISS keeps a bare pointer to the bits, which the view keeps alive. Measured: it costs a search nothing.
        view._selector = faiss.IDSelectorBitmap(len(view._visible), faiss.swig_ptr(view._visible))
        view._num_rows = num_rows
        view._free_scratch = []
        return view

    def nearest(
        self, vectors: npt.NDArray[np.float32], num_items: int, allowed: list[Allowed], *, exhaustive: bool = False
    ) -> Found:
        """See `ItemSearch.nearest`. Searches `nprobe` lists, and more only where these hold too few allowed items."""
        num_items = min(num_items, self.num_items)
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        found = nothing_found(len(vectors), num_items)
        together = [place for place, one in enumerate(allowed) if one.mask is None and len(one.excluded) <= MAX_EXTRA]
        short = set(range(len(allowed))).difference(together)
        if together:
            short.update(self._search_together(vectors, together, allowed, found, exhaustive=exhaustive))
        for place in sorted(short):
            rows, scores = self._search_alone(vectors[place], num_items, allowed[place], exhaustive=exhaustive)
            found.rows[place, : len(rows)] = rows
            found.scores[place, : len(rows)] = scores
        return found

    def _search_together(
        self,
        vectors: npt.NDArray[np.float32],
        places: list[int],
        allowed: list[Allowed],
        found: Found,
        *,
        exhaustive: bool,
    ) -> list[int]:
        """Fetches as many more items as any of these users has excluded, and drops those. Returns who got too few."""
        num_items = found.rows.shape[1]
        extra = max(len(allowed[place].excluded) for place in places)
        most = min(num_items + extra, self.num_items)
        nprobe = self._index.nlist if exhaustive else self._nprobe
        queries = vectors if len(places) == len(vectors) else vectors[places]
        scores, rows = self._index.search(queries, most, params=_parameters(nprobe, self._selector))
        short = []
        for place, of_rows, of_scores in zip(places, rows, scores, strict=True):
            excluded = allowed[place].excluded
            if len(excluded):
                kept = np.flatnonzero(self._without(of_rows, excluded))[:num_items]
                of_rows, of_scores = of_rows[kept], of_scores[kept]
            else:
                of_rows, of_scores = of_rows[:num_items], of_scores[:num_items]
            # FAISS fills up with row -1 and the lowest score where it found fewer.
            count = int(np.count_nonzero(of_rows >= 0))
            found.rows[place, :count] = of_rows[:count]
            found.scores[place, :count] = of_scores[:count]
            if count < num_items and nprobe < self._index.nlist:
                short.append(place)
        return short

    def _search_alone(
        self, vector: npt.NDArray[np.float32], num_items: int, allowed: Allowed, *, exhaustive: bool
    ) -> tuple[Rows, npt.NDArray[np.float32]]:
        """One user with a filter: exact where few items pass it, else with a bitmap in the search, widened as
        needed."""
        mask = allowed.mask
        if mask is not None and mask.rows is not None:
            rows = mask.rows if self._selector is None else mask.rows[rows_in(self._visible, mask.rows)]
            return self._score(vector, num_items, rows[self._without(rows, allowed.excluded)])
        bitmap = self._visible if mask is None else mask.bitmap
        if self._selector is not None and mask is not None:
            bitmap = bitmap & self._visible
        if len(allowed.excluded):
            bitmap = without_rows(bitmap, allowed.excluded)
        num_allowed = max((self.num_items if mask is None else mask.num_items) - len(allowed.excluded), 1)
        num_lists = self._index.nlist
        evenly = -(-_MARGIN * num_items * num_lists // num_allowed)
        nprobe = num_lists if exhaustive else min(max(self._nprobe, evenly), num_lists)
        query = vector.reshape(1, -1)
        # FAISS keeps a bare pointer to the bits, and its parameters keep one to the selector: both live until the
        # return.
        selector = faiss.IDSelectorBitmap(len(bitmap), faiss.swig_ptr(bitmap))
        while True:
            scores, rows = self._index.search(query, num_items, params=_parameters(nprobe, selector))
            count = int(np.count_nonzero(rows[0] >= 0))
            if count == num_items or nprobe == num_lists:
                return rows[0][:count], scores[0][:count]
            nprobe = min(nprobe * _WIDENING, num_lists)

    def _without(self, rows: Rows, excluded: Rows) -> npt.NDArray[np.bool_]:
        """Which rows are not excluded: (n,) bool. A flag for each item of the catalogue is 30 times as fast as
        np.isin."""
        try:
            flags = self._free_scratch.pop()
        except IndexError:
            flags = np.ones(self._num_rows + 1, dtype=np.bool_)  # the last one is that of MISSING_ROW
        flags[excluded] = False
        kept = flags[rows]
        flags[excluded] = True
        self._free_scratch.append(flags)
        return kept

    def _score(
        self, vector: npt.NDArray[np.float32], num_items: int, rows: Rows
    ) -> tuple[Rows, npt.NDArray[np.float32]]:
        scores = self._item_vectors[rows] @ vector
        order = np.argsort(-scores, kind="stable")[:num_items]
        return rows[order], scores[order]


def _parameters(nprobe: int, selector: faiss.IDSelector | None = None) -> faiss.SearchParametersIVF:
    # FAISS' stubs do not know the keywords that its Python layer adds to the constructor.
    return faiss.SearchParametersIVF(sel=selector, nprobe=nprobe)  # type: ignore[call-arg]
