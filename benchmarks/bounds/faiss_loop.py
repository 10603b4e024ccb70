"""The upper bound of any server over one index: FAISS searches in a loop, without store, filters, ranking or network.

`python -m benchmarks.bounds.faiss_loop CATALOGUE_FOLDER K SECONDS` prints one JSON object: searches per second at the
manifest's nprobe. Queries are users' vectors, searched one at a time on one thread, as a server receives them.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import faiss

from benchmarks.synthetic.users import Users
from tandem.contract.bundle import read_bundle


def measure(folder: Path, k: int, seconds: float) -> dict[str, Any]:
    """Searches for `seconds`, after a warm-up of a tenth of that time."""
    faiss.omp_set_num_threads(1)
    bundle = read_bundle(folder / "bundle", verify_checksums=False)
    queries = Users.load(folder / "users.npz").vectors
    index: Any = faiss.read_index(str(bundle.index), faiss.IO_FLAG_MMAP_IFC)
    index.nprobe = bundle.manifest.index.nprobe
    searches = 0
    warm_until = time.perf_counter() + seconds / 10
    while time.perf_counter() < warm_until:
        index.search(queries[searches % len(queries)][None], k)
        searches += 1
    searches, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        index.search(queries[searches % len(queries)][None], k)
        searches += 1
    return {"k": k, "nprobe": index.nprobe, "searches_per_second": round(searches / elapsed, 1)}


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))))
