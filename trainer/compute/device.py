"""The one place that decides which device a run uses, in which precision, and what it took of the device's memory."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import AbstractContextManager

import torch

from trainer.core.errors import ConfigError


def choose_device(requested: str) -> torch.device:
    """The device to train on: "auto" takes a GPU where PyTorch sees one, else the CPU.

    Under torchrun each process of a machine takes the GPU of its own number. Raises ConfigError when a device is asked
    for that is not there.
    """
    if requested == "auto":
        requested = "cuda" if torch.cuda.is_available() else "cpu"
    if requested.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"fit.device: {requested!r} asked for, but PyTorch sees no GPU; use 'auto' or 'cpu'")
    if requested == "cuda":
        own = int(os.environ.get("LOCAL_RANK", "0"))
        if own >= torch.cuda.device_count():
            raise ConfigError(
                f"fit.device: process {own} of this machine has no GPU of its own, there are "
                f"{torch.cuda.device_count()}; start fewer processes, or use 'cpu'"
            )
        return torch.device("cuda", own)
    return torch.device(requested)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision for "bf16"; for "auto" on a GPU alone: a CPU without bfloat16 units is slower with it."""
    enabled = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device. A copy to a GPU leaves pinned memory, so that it does not wait for the GPU's work."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def process_peak_memory_bytes() -> int:
    """The most memory that this process has had since it started, on whatever device it computes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory so far: PyTorch's own on a GPU, else the whole process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return process_peak_memory_bytes()
