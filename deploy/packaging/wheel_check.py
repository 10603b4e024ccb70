"""`make wheel-check`: builds the wheel, installs it with [server] alone in a clean environment, and serves from there.

An editable install hides files that the wheel lacks, and a development environment hides dependencies that the extra
lacks. Prints the size of the environment and the memory of one worker. Exit status 1 if a check fails.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

import grpc

from deploy.local.client import wait_until_serving
from deploy.local.errors import StackError
from deploy.local.ports import free_port
from tandem.contract.bundle import read_manifest
from tandem.v1 import recommendation_pb2 as pb
from tandem.v1 import recommendation_pb2_grpc as pb_grpc

MAX_MEGABYTES = 640
"""Without HTTP it was 589: jsonschema-rs, FastAPI, uvicorn and PyYAML take about 20 (docs/decisions/0010)."""
_READY_SECONDS = 60.0
_ROOT = Path(__file__).resolve().parents[2]


async def _check(folder: Path) -> None:
    python = _install(folder)
    megabytes = sum(path.lstat().st_size for path in (folder / "venv").rglob("*")) / 1e6
    print(f"environment with [server]: {megabytes:.0f} MB, at most {MAX_MEGABYTES}")
    if megabytes > MAX_MEGABYTES:
        raise SystemExit("the server's environment is too large")
    found = _run(
        python,
        "-c",
        "import importlib.util as u; print(*[n for n in ('torch', 'transformers', 'duckdb', "
        "'pandas', 'faiss', 'trainer') if u.find_spec(n)])",
    ).split()
    if found != ["faiss", "trainer"]:
        raise SystemExit(f"of torch, transformers, duckdb, pandas, faiss, trainer, the environment has {found}")
    bundle = _tiny_bundle(folder / "bundle")
    await _serve(python, bundle, folder)


def _install(folder: Path) -> Path:
    """A clean environment with the wheel; returns its python."""
    _run(Path(sys.executable), "-m", "build", "--wheel", "--outdir", str(folder), str(_ROOT))
    (wheel,) = folder.glob("*.whl")
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in zipfile.ZipFile(wheel).namelist()):
        raise SystemExit("the wheel has no LICENSE")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    constraints = str(_ROOT / "constraints.txt")
    _run(python, "-m", "pip", "install", "--quiet", "--constraint", constraints, f"{wheel}[server]")
    return python


def _tiny_bundle(directory: Path) -> Path:
    """A bundle made in the development environment: the server's environment cannot make one."""
    _run(
        Path(sys.executable),
        "-c",
        "import sys; from pathlib import Path; from tests.support.tiny_bundle import build_tiny_bundle; "
        "build_tiny_bundle(Path(sys.argv[1]))",
        str(directory),
        cwd=_ROOT,
    )
    return directory


async def _serve(python: Path, bundle: Path, folder: Path) -> None:
    """Starts the server from the clean environment and asks it once. There is no store, so the answer is degraded."""
    log, port = folder / "server.log", free_port()
    with log.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            *(str(python), "-m", "inference_server", "serve"),
            cwd=folder,  # not the checkout, whose packages would be found first
            env={
                "PATH": os.environ["PATH"],
                "TANDEM_BUNDLE_PATH": str(bundle),
                "TANDEM_DATA_DIR": str(folder / "data"),
                "TANDEM_GRPC_PORT": str(port),
                "TANDEM_HTTP_PORT": "0",
                "TANDEM_METRICS_PORT": "0",
                "TANDEM_DEADLINE_MS": "5000",
                "TANDEM_STORE_URL": "redis://127.0.0.1:1/0",
            },
            stderr=sink,
        )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await wait_until_serving(f"127.0.0.1:{port}", read_manifest(bundle).model_version, _READY_SECONDS)
            stub = pb_grpc.RecommendationServiceStub(channel)
            request = pb.RecommendRequest(user_id="someone", num_items=5)
            answer = await stub.Recommend(request, timeout=_READY_SECONDS)
            memory = _resident_megabytes(process.pid)
    except (StackError, grpc.aio.AioRpcError) as error:
        raise SystemExit(f"{error}\n{log.read_text()}") from error
    finally:
        process.terminate()
        status = await process.wait()
    if len(answer.items) != 5 or list(answer.degraded_reasons) != ["store_unavailable"] or status:
        raise SystemExit(f"unexpected answer or exit status {status}:\n{answer}\n{log.read_text()}")
    print(f"served {len(answer.items)} items from the wheel; memory of the worker with a tiny bundle: {memory:.0f} MB")


def _resident_megabytes(supervisor: int) -> float:
    """Resident memory of the supervisor's worker."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    pages = int(Path(f"/proc/{children[0]}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _run(python: Path, *arguments: str, cwd: Path | None = None) -> str:
    done = subprocess.run([str(python), *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments[:3])} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def main() -> None:
    """Runs the check in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="tandem-wheel-") as folder:
        asyncio.run(_check(Path(folder)))


if __name__ == "__main__":
    main()
