"""Stacks started by the commands that a person uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tandem.contract.bundle import Bundle, read_bundle
from trainer.core.settings import Settings
from trainer.registry.registry import Registry

SMOKE_SECONDS = 900


@dataclass(frozen=True)
class Stack:
    """A data folder that `smoke` filled."""

    settings: Settings
    dataset: tuple[str, ...]
    """Arguments that name the data set."""

    @property
    def environment(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")},
            "TANDEM_DATA_DIR": str(self.settings.data_dir),
            "TANDEM_REGISTRY_URI": self.settings.registry_uri,
        }

    def smoke(self) -> subprocess.CompletedProcess[str]:
        """Runs the command of `make smoke`, which must succeed."""
        done = subprocess.run(
            [sys.executable, "-m", "deploy.local", "smoke", *self.dataset],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SMOKE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done

    def bundle(self) -> Bundle:
        """The champion's bundle."""
        champion = Registry(self.settings).champion()
        assert champion is not None
        return read_bundle(Path(champion.source))

    def prepared(self) -> Path:
        """Folder of the prepared data."""
        (found,) = [path for path in (self.settings.data_dir / "prepared").iterdir() if not path.name.startswith(".")]
        return found


def new_stack(folder: Path, *dataset: str) -> Stack:
    """A stack with an empty data folder and no registry yet."""
    settings = Settings(data_dir=folder, registry_uri=f"sqlite:///{folder / 'mlflow.db'}")
    return Stack(settings, dataset)


def answer_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The answer that `smoke` printed after its READY line."""
    ready, _, text = done.stdout.partition("\n")
    assert ready.startswith("READY grpc="), done.stdout
    answer: dict[str, Any] = json.loads(text)
    return answer


@pytest.fixture(scope="session")
def movielens(tmp_path_factory) -> tuple[Stack, subprocess.CompletedProcess[str]]:
    """MovieLens-100K trained with the default configuration, which takes minutes: once per session."""
    stack = new_stack(tmp_path_factory.mktemp("movielens"), "--dataset", "ml-100k")
    return stack, stack.smoke()
