"""Device and precision of a run, and its peak memory. No other module decides about them."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import AbstractContextManager

import torch

from trainer.core.errors import ConfigError


def choose_device(requested: str) -> torch.device:
    """The device to train on: "auto" is a GPU if PyTorch sees one, else the CPU.

    Under torchrun each process of a machine uses the GPU with its local rank. Raises ConfigError if the requested
    device does not exist.
    """
    if requested == "auto":
        requested = "cuda" if torch.cuda.is_available() else "cpu"
    if requested.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"fit.device: {requested!r} was requested, but PyTorch sees no GPU; use 'auto' or 'cpu'")
    if requested == "cuda":
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"fit.device: there is no GPU for process {local_rank} of this machine, which has "
                f"{torch.cuda.device_count()} GPUs; start fewer processes, or use 'cpu'"
            )
        return torch.device("cuda", local_rank)
    return torch.device(requested)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision for "bf16", and for "auto" only on a GPU: a CPU without bfloat16 units is slower with it."""
    enabled = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device. A copy to a GPU starts from pinned memory, so it does not wait for running kernels."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def process_peak_memory_bytes() -> int:
    """Peak resident memory of this process since its start, in bytes; GPU memory is not included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory so far, in bytes: that of PyTorch on a GPU, else that of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return process_peak_memory_bytes()
