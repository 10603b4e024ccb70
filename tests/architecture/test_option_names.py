"""Options that a library takes as text: each is a name of the library, because one that is not is ignored in silence.

redis-py, librdkafka, DuckDB, uvicorn and pydantic refuse a name that they do not know, and so does every attribute of
ONNX Runtime's session options: for them the first test that uses a name is the check.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "deploy", "docs", "feature_sync", "inference_server", "k8s", "protos", "tests", "trainer")
SUFFIXES = {".py", ".yaml", ".yml", ".md", ".toml", ".sh"}
_GENERATED = "_pb2"


@dataclass(frozen=True)
class Library:
    """One library's options, and where it says what it knows."""

    package: str
    names: str
    """A regular expression of the text that is meant as such an option; its group is the name."""
    known_in: str
    """Glob of the library's own files that hold each name, from the parent of the package."""
    ends_with: bytes = b"\0"
    """What follows a name there, so that the beginning of a name is not taken for one."""
    a_name: str = ""
    """One that is used, to see that the search finds names at all."""


LIBRARIES = [
    Library(
        package="grpc",
        names=r"""["'`](grpc\.(?!aio|reflection|health)[a-z0-9_]+(?:\.[a-z0-9_]+)*)["'`]""",
        known_in="grpc/_cython/cygrpc*.so",
        a_name="grpc.http2.ping_timeout_ms",
    ),
    Library(
        package="grpc",
        names=r"""\b(GRPC_EXPERIMENTS|GRPC_VERBOSITY|GRPC_TRACE|GRPC_ENABLE_[A-Z_]+)\b""",
        known_in="grpc/_cython/cygrpc*.so",
        ends_with=b"",
        a_name="GRPC_EXPERIMENTS",
    ),
    Library(
        package="grpc",
        names=r"""GRPC_EXPERIMENTS(?:: Final)? = "-?([a-z0-9_]+)\"""",
        known_in="grpc/_cython/cygrpc*.so",
        a_name="event_engine_listener",
    ),
    Library(
        package="onnxruntime",
        names=r"""add_session_config_entry\("([^"]+)\"""",
        known_in="onnxruntime/capi/onnxruntime_pybind11_state*.so",
        a_name="session.intra_op.allow_spinning",
    ),
    Library(
        package="mlflow",
        names=r"""\b(MLFLOW_[A-Z][A-Z_]+[A-Z])\b""",
        known_in="mlflow/environment_variables.py",
        ends_with=b" =",
        a_name="MLFLOW_HTTP_REQUEST_TIMEOUT",
    ),
    Library(
        package="numpy",
        names=r"""\b(OPENBLAS_[A-Z_]+[A-Z])\b""",
        known_in="numpy.libs/*openblas*.so",
        a_name="OPENBLAS_NUM_THREADS",
    ),
    Library(
        package="torch",
        names=r"""\b(OMP_[A-Z_]+[A-Z])\b""",
        known_in="torch/lib/libgomp*",
        ends_with=b"",
        a_name="OMP_NUM_THREADS",
    ),
    Library(
        package="tokenizers",
        names=r"""\b(TOKENIZERS_[A-Z_]+[A-Z])\b""",
        known_in="tokenizers/tokenizers*.so",
        ends_with=b"",
        a_name="TOKENIZERS_PARALLELISM",
    ),
]


def _texts() -> Iterator[tuple[Path, str]]:
    for folder in FOLDERS:
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.suffix in SUFFIXES and _GENERATED not in path.name and path != Path(__file__):
                yield path.relative_to(REPOSITORY), path.read_text(encoding="utf-8")


def _unknown(library: Library, texts: list[tuple[Path, str]]) -> tuple[set[str], list[str]]:
    """All names in the texts, and "file: name" of those that the library does not know."""
    used = {(str(path), name) for path, text in texts for name in re.findall(library.names, text)}
    spec = importlib.util.find_spec(library.package)
    assert spec is not None
    assert spec.origin is not None
    files = list(Path(spec.origin).parents[1].glob(library.known_in))
    assert files, f"{library.package} keeps its names elsewhere now"
    known = b"\n".join(file.read_bytes() for file in files)
    unknown = [f"{path}: {name}" for path, name in used if name.encode() + library.ends_with not in known]
    return {name for _, name in used}, sorted(unknown)


@pytest.fixture(scope="module")
def texts() -> list[tuple[Path, str]]:
    return list(_texts())


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.a_name)
def test_every_option_is_one_that_the_library_knows(library: Library, texts: list[tuple[Path, str]]) -> None:
    used, unknown = _unknown(library, texts)
    assert library.a_name in used
    assert not unknown


@pytest.mark.parametrize(
    ("library", "text"),
    [
        (LIBRARIES[0], '("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000)'),
        (LIBRARIES[0], '("grpc.keepalive_time", 10_000)'),
        (LIBRARIES[2], 'GRPC_EXPERIMENTS: Final = "-event_engine_listeners"'),
        (LIBRARIES[3], 'options.add_session_config_entry("session.intra_op_allow_spinning", "0")'),
        (LIBRARIES[4], "MLFLOW_HTTP_REQUEST_TIMEOUTS: 3"),
        (LIBRARIES[5], '{"OPENBLAS_NUM_THREAD": "1"}'),
    ],
)
def test_a_misspelt_option_is_found(library: Library, text: str) -> None:
    _, unknown = _unknown(library, [(Path("a.py"), text)])
    assert unknown
