"""The item index: FAISS IVF, filtered inside the search. The only module that imports faiss."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

import faiss
import numpy as np
import numpy.typing as npt

from inference_server.model.catalogue.bitmap import bitmap_of_mask, rows_in, without_rows
from inference_server.model.engine.search import Allowed, Found, nothing_found
from tandem.contract.errors import BundleCorrupt, BundleIncompatible
from tandem.contract.vocabulary import NO_ROWS, Rows

# Queries come one batch at a time from an event loop: threads inside FAISS would only wait for each other.
faiss.omp_set_num_threads(1)

MAX_EXTRA: Final = 400
"""Up to this many excluded items of a user, the search fetches as many more items and drops the excluded ones, so that
the users of a batch share one search. Beyond it, a search with a bitmap of the user's own is faster."""
_OVERSAMPLING: Final = 4
"""A filtered search probes enough lists to hold this multiple of k, if allowed items were spread evenly; where they are
not, it widens."""
_WIDENING: Final = 4
"""A search that found too few items is repeated with this multiple of its lists."""


class ItemIndex:
    """Nearest allowed items of user vectors. Safe to call from several threads."""

    def __init__(
        self,
        index: faiss.IndexIVF,
        *,
        item_vectors: npt.NDArray[np.float32],
        nprobe: int,
        num_rows: int,
        hidden: Rows = NO_ROWS,
    ) -> None:
        """`index` is over `item_vectors`, (items, dim) float32, and searches `nprobe` lists where these are enough.

        Filters are over `num_rows` >= items rows of a catalogue, the first of which are the index's. `hidden` is
        (h,) int64: rows of the index that are never found.
        """
        self._index = index
        self._item_vectors = np.asarray(item_vectors)
        self._nprobe = min(nprobe, index.nlist)
        self._num_rows = num_rows
        self.num_items: Final = len(item_vectors)
        is_visible = np.zeros(num_rows, dtype=np.bool_)
        is_visible[: self.num_items] = True
        is_visible[hidden] = False
        self._visible = bitmap_of_mask(is_visible)
        self._selector: faiss.IDSelectorBitmap | None = None
        """Selects the visible rows; None while all rows are visible. Its cost in a search is too small to measure."""
        if not is_visible.all():
            # FAISS keeps a bare pointer to the bits, which live as long as the selector.
            self._selector = faiss.IDSelectorBitmap(len(self._visible), faiss.swig_ptr(self._visible))
        self._free_scratch: list[npt.NDArray[np.bool_]] = []

    @classmethod
    def open(cls, path: Path, *, item_vectors: npt.NDArray[np.float32], nprobe: int) -> Self:
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
        return cls(index, item_vectors=item_vectors, nprobe=nprobe, num_rows=num_items)

    def hiding(self, rows: Rows, *, num_rows: int) -> ItemIndex:
        """The same index without `rows`, (h,) int64, in a catalogue of `num_rows` >= items rows."""
        return ItemIndex(
            self._index, item_vectors=self._item_vectors, nprobe=self._nprobe, num_rows=num_rows, hidden=rows
        )

    def nearest(
        self, vectors: npt.NDArray[np.float32], num_items: int, allowed: list[Allowed], *, exhaustive: bool = False
    ) -> Found:
        """See `ItemSearch.nearest`. Probes `nprobe` lists, and more only where these hold too few allowed items."""
        num_items = min(num_items, self.num_items)
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        found = nothing_found(len(vectors), num_items)
        together = [
            user
            for user, user_allowed in enumerate(allowed)
            if user_allowed.mask is None and len(user_allowed.excluded) <= MAX_EXTRA
        ]
        alone = set(range(len(allowed))).difference(together)
        if together:
            alone.update(self._search_together(vectors, together, allowed, found, exhaustive=exhaustive))
        for user in sorted(alone):
            rows, scores = self._search_alone(vectors[user], num_items, allowed[user], exhaustive=exhaustive)
            found.rows[user, : len(rows)] = rows
            found.scores[user, : len(rows)] = scores
        return found

    def _search_together(
        self,
        vectors: npt.NDArray[np.float32],
        users: list[int],
        allowed: list[Allowed],
        found: Found,
        *,
        exhaustive: bool,
    ) -> list[int]:
        """Searches once for `users` of the batch and fills in their results.

        Fetches as many extra items as any of the users excludes, and drops each user's excluded ones. Returns the users
        who got too few items.
        """
        num_items = found.rows.shape[1]
        num_extra = max(len(allowed[user].excluded) for user in users)
        num_fetched = min(num_items + num_extra, self.num_items)
        nprobe = self._index.nlist if exhaustive else self._nprobe
        queries = vectors if len(users) == len(vectors) else vectors[users]
        scores, rows = self._index.search(queries, num_fetched, params=_parameters(nprobe, self._selector))
        short = []
        for user, user_rows, user_scores in zip(users, rows, scores, strict=True):
            excluded = allowed[user].excluded
            if len(excluded):
                kept = np.flatnonzero(self._is_kept(user_rows, excluded))[:num_items]
                user_rows, user_scores = user_rows[kept], user_scores[kept]
            else:
                user_rows, user_scores = user_rows[:num_items], user_scores[:num_items]
            # Where FAISS found too few items, it fills up with row -1 and the lowest score.
            count = int(np.count_nonzero(user_rows >= 0))
            found.rows[user, :count] = user_rows[:count]
            found.scores[user, :count] = user_scores[:count]
            if count < num_items and nprobe < self._index.nlist:
                short.append(user)
        return short

    def _search_alone(
        self, vector: npt.NDArray[np.float32], num_items: int, allowed: Allowed, *, exhaustive: bool
    ) -> tuple[Rows, npt.NDArray[np.float32]]:
        """Searches for one user with a filter: exactly where the mask lists its rows, else through the index with a
        bitmap, in more lists as needed."""
        mask = allowed.mask
        if mask is not None and mask.rows is not None:
            rows = mask.rows if self._selector is None else mask.rows[rows_in(self._visible, mask.rows)]
            return self._score(vector, num_items, rows[self._is_kept(rows, allowed.excluded)])
        bitmap = self._visible if mask is None else mask.bitmap
        if self._selector is not None and mask is not None:
            bitmap = bitmap & self._visible
        if len(allowed.excluded):
            bitmap = without_rows(bitmap, allowed.excluded)
        num_allowed = max((self.num_items if mask is None else mask.num_items) - len(allowed.excluded), 1)
        num_lists = self._index.nlist
        nprobe_if_even = -(-_OVERSAMPLING * num_items * num_lists // num_allowed)
        nprobe = num_lists if exhaustive else min(max(self._nprobe, nprobe_if_even), num_lists)
        query = vector.reshape(1, -1)
        # FAISS keeps a bare pointer to the bits, and its parameters keep one to the selector: both live until this
        # method returns.
        selector = faiss.IDSelectorBitmap(len(bitmap), faiss.swig_ptr(bitmap))
        while True:
            scores, rows = self._index.search(query, num_items, params=_parameters(nprobe, selector))
            count = int(np.count_nonzero(rows[0] >= 0))
            if count == num_items or nprobe == num_lists:
                return rows[0][:count], scores[0][:count]
            nprobe = min(nprobe * _WIDENING, num_lists)

    def _is_kept(self, rows: Rows, excluded: Rows) -> npt.NDArray[np.bool_]:
        """Which rows are not excluded: (n,), (m,) int64 -> (n,) bool.

        A flag for each row of the catalogue is 30 times as fast as np.isin. Threads take scratch arrays of flags from
        a pool.
        """
        try:
            flags = self._free_scratch.pop()
        except IndexError:
            flags = np.ones(self._num_rows + 1, dtype=np.bool_)  # the last flag is for MISSING_ROW
        flags[excluded] = False
        kept = flags[rows]
        flags[excluded] = True
        self._free_scratch.append(flags)
        return kept

    def _score(
        self, vector: npt.NDArray[np.float32], num_items: int, rows: Rows
    ) -> tuple[Rows, npt.NDArray[np.float32]]:
        """The best of `rows`, (n,) int64, scored exactly. Returns rows and scores, (m,) each, m <= num_items."""
        scores = self._item_vectors[rows] @ vector
        order = np.argsort(-scores, kind="stable")[:num_items]
        return rows[order], scores[order]


def _parameters(nprobe: int, selector: faiss.IDSelector | None = None) -> faiss.SearchParametersIVF:
    # FAISS' stubs do not know the keywords that its Python layer adds to the constructor.
    return faiss.SearchParametersIVF(sel=selector, nprobe=nprobe)  # type: ignore[call-arg]
