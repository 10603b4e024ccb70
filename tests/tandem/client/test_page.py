"""The examples of docs/client.md run as written against a real server."""

from __future__ import annotations

import ast
import asyncio
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import tandem.client
from tandem.client.errors import EXCEPTION_OF
from tests.support.serving import Server, serve, valkey
from tests.support.tiny_bundle import TinySpec, build_tiny_bundle, state_of

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "client.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ADDRESS = "localhost:50051"
OUTPUT = (
    r"RETRIEVED tiny-1 \(\) \(\"filter\.exclude_categories\[0\]: .* 'Western'; did you mean 'western'\?\",\)$",
    r"^\('",
    r"^for you \('",
    r"^244 |^22 ",
    r"^1 event",
    r"^tiny-1$",
    r"^num_items .+",
)
"""Pattern of a line that each block prints."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A server with items for the page's examples, and with the page's user in its store."""
    folder = tmp_path_factory.mktemp("server")
    bundle = build_tiny_bundle(folder / "bundle", TinySpec())
    async with (
        valkey(folder / "valkey") as store,
        serve(folder / "data", bundle_path=bundle.directory, store_url=store.url) as server,
    ):
        await store.put("196", state_of(["item-1", "item-5"]))
        yield server


@pytest.mark.process
@pytest.mark.parametrize(("block", "printed"), [*zip(BLOCKS, OUTPUT, strict=True)], ids=range(len(BLOCKS)))
async def test_an_example_runs(block: str, printed: str, server: Server) -> None:
    assert ADDRESS in block
    program = block.replace(ADDRESS, f"127.0.0.1:{server.grpc_port}")
    program = re.sub(r'"(50|181)"', r'"item-\1"', program).replace("deadline_ms=500", "deadline_ms=30_000")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", program),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = (text.decode() for text in await process.communicate())
    assert process.returncode == 0, err
    assert "Warning" not in err
    assert re.search(printed, out, re.MULTILINE), out


async def test_the_table_of_errors_is_complete() -> None:
    named = set(re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE))
    assert named == {kind.__name__ for kind in EXCEPTION_OF.values()} | {
        "PageExpired",
        "InvalidArgument",
        "ClientClosed",
    }


async def test_numbers_in_the_text_are_the_defaults() -> None:
    from tandem.client.core import DEADLINE_MS, WRITE_DEADLINE_MS

    policy = tandem.client.RetryPolicy()
    assert f"{DEADLINE_MS:g} ms unless" in PAGE
    assert f"{WRITE_DEADLINE_MS:,.0f} ms unless" in PAGE
    assert policy.max_attempts == 3
    assert "three attempts" in PAGE
    assert (policy.budget_ratio, policy.budget_tokens, policy.backoff_multiplier) == (0.1, 10, 2)


async def test_examples_import_what_they_use_from_the_package_alone() -> None:
    for block in BLOCKS:
        imported = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)]
        assert {node.module for node in imported} == {"tandem.client"}
