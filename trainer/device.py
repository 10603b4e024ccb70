"""The one place that decides which device a run uses."""

from __future__ import annotations

import torch

from trainer.errors import ConfigError


def choose_device(requested: str) -> torch.device:
    """The device to train on: "auto" takes the first GPU where PyTorch sees one, else the CPU.

    Raises ConfigError when a device is asked for that is not there.
    """
    if requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if requested.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"fit.device: {requested!r} asked for, but PyTorch sees no GPU; use 'auto' or 'cpu'")
    return torch.device(requested)
