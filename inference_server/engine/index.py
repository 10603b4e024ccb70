"""The item index: FAISS IVF, filtered inside the search. The only module that imports faiss."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import faiss
import numpy as np
import numpy.typing as npt

from inference_server.bitmap import Bitmap, count_rows
from tandem.contract.errors import BundleCorrupt, BundleIncompatible
from tandem.contract.vocabulary import Rows

# Queries come one at a time from an event loop: threads inside FAISS would only wait for each other.
faiss.omp_set_num_threads(1)


class ItemIndex:
    """Nearest allowed items of a user vector. Safe to call from several threads."""

    def __init__(self, path: Path, *, num_items: int, dim: int, nprobe: int) -> None:
        """Maps an index into memory; processes that map the same file share its pages.

        Raises BundleCorrupt when FAISS cannot read the file, BundleIncompatible when it is not an inner-product IVF
        index of this size and dimension.
        """
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
        self.num_items: Final = num_items
        self._nprobe = nprobe
        self._free_scratch: list[_Scratch] = []

    def nearest(
        self, vector: npt.NDArray[np.float32], k: int, allowed: Bitmap, *, exhaustive: bool = False
    ) -> tuple[Rows, npt.NDArray[np.float32]]:
        """The k allowed items with the highest inner product.

        `vector` is (dim,) float32. Searches `nprobe` lists; where these hold fewer than k allowed items and the others
        may hold more, searches all lists. So k items come back whenever k are allowed.

        Returns rows (n,) int64 and scores (n,) float32, n <= k, best first.
        """
        k = min(k, self.num_items)
        query = np.ascontiguousarray(vector, dtype=np.float32).reshape(1, -1)
        try:
            scratch = self._free_scratch.pop()
        except IndexError:
            scratch = _Scratch(self._index, self._nprobe)
        try:
            np.copyto(scratch.bitmap, allowed)
            rows, scores = self._search(query, k, scratch.all_lists if exhaustive else scratch.some_lists)
            if len(rows) < k and not exhaustive and count_rows(allowed) > len(rows):
                rows, scores = self._search(query, k, scratch.all_lists)
        finally:
            self._free_scratch.append(scratch)
        return rows, scores

    def _search(
        self, query: npt.NDArray[np.float32], k: int, parameters: faiss.SearchParametersIVF
    ) -> tuple[Rows, npt.NDArray[np.float32]]:
        scores, rows = self._index.search(query, k, params=parameters)
        # FAISS fills up with row -1 where it found fewer than k.
        found = rows[0] >= 0
        return rows[0][found], scores[0][found]


class _Scratch:
    """Search parameters with the bitmap they point into: FAISS keeps a bare pointer, so one object owns both.

    Building them costs more than a search of a small index does, so they are kept and the bitmap is written anew.
    """

    def __init__(self, index: faiss.IndexIVF, nprobe: int) -> None:
        self.bitmap: Bitmap = np.zeros((index.ntotal + 7) // 8, dtype=np.uint8)
        self._selector = faiss.IDSelectorBitmap(len(self.bitmap), faiss.swig_ptr(self.bitmap))
        self.some_lists = self._parameters(min(nprobe, index.nlist))
        self.all_lists = self._parameters(index.nlist)

    def _parameters(self, nprobe: int) -> faiss.SearchParametersIVF:
        # FAISS' stubs do not know the keywords that its Python layer adds to the constructor.
        return faiss.SearchParametersIVF(sel=self._selector, nprobe=nprobe)  # type: ignore[call-arg]
