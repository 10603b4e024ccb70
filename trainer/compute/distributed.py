"""Several processes of torchrun that train one model. The only module that imports torch.distributed.

Every process holds the whole model and takes its share of each batch; gradients are summed, weighted by positions, so a
step is the same as one process would make of the whole batch. Without torchrun every function here is that of one
process. Gradients are summed after the backward pass and not by DistributedDataParallel: that wants one call of one
module for each step, and here two towers are called, the item tower for more items than a share holds users.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

_T = TypeVar("_T")
_TIMEOUT = timedelta(hours=12)  # the others wait while process 0 prepares a large data set, or validates on it


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the processes that torchrun started: through nccl on GPUs, through gloo on CPUs."""
    if not dist.is_torchelastic_launched():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """This process's number; 0 is the one that validates, logs and registers."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def broadcast(value: _T) -> _T:
    """The value of process 0, in every process. It travels pickled."""
    if num_processes() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: _T) -> list[_T]:
    """The values of all processes by their rank, in every process. They travel pickled."""
    if num_processes() == 1:
        return [value]
    values: list[_T] = [value] * num_processes()
    dist.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Returns once every process has come here."""
    if num_processes() > 1:
        dist.barrier()


def average_gradients(parameters: Iterable[torch.nn.Parameter], *, weight: int) -> None:
    """Replaces gradients by their mean over the processes, weighted by `weight`, this process's number of positions.

    A parameter without a gradient counts as zero: a process may have had no window of a small batch.
    """
    if num_processes() == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    flat = torch.cat([gradient.reshape(-1) * weight for gradient in gradients] + [gradients[0].new_tensor([weight])])
    dist.all_reduce(flat)
    mean = flat[:-1] / flat[-1]
    places = torch.split(mean, [gradient.numel() for gradient in gradients])
    for parameter, place in zip(trained, places, strict=True):
        parameter.grad = place.view_as(parameter)


def total(values: Tensor) -> Tensor:
    """The sum of a tensor over the processes, in every process."""
    if num_processes() > 1:
        dist.all_reduce(values)
    return values
