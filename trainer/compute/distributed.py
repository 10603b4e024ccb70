"""Training of one model in several processes of torchrun. The only module that imports torch.distributed.

Every process holds the whole model and takes its share of each batch. Gradients are averaged, weighted by the number of
positions, so a step equals the step of a single process on the whole batch. Without torchrun, every function works for
a single process. Gradients are averaged after the backward pass and not by DistributedDataParallel, which expects one
call of one module in each step: a step here calls two towers, and the item tower runs for more items than a process's
share of the batch has users.
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
_TIMEOUT = timedelta(hours=12)  # processes wait while process 0 prepares or validates a large data set


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the processes that torchrun started: with nccl on GPUs, with gloo on CPUs."""
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
    """Number of this process, from 0. Process 0 validates, logs and registers."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_processes() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def broadcast(value: _T) -> _T:
    """The value of process 0, in every process. The value is pickled."""
    if num_processes() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: _T) -> list[_T]:
    """The values of all processes in order of rank, in every process. The values are pickled."""
    if num_processes() == 1:
        return [value]
    values: list[_T] = [value] * num_processes()
    dist.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Blocks until every process has called it."""
    if num_processes() > 1:
        dist.barrier()


def average_gradients(parameters: Iterable[torch.nn.Parameter], *, weight: float) -> None:
    """Replaces gradients by their mean over the processes, weighted by `weight`, the sum of the weights of this
    process's positions.

    A missing gradient counts as zero: a process may have had no window of a small batch.
    """
    if num_processes() == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    flat = torch.cat([gradient.reshape(-1) * weight for gradient in gradients] + [gradients[0].new_tensor([weight])])
    dist.all_reduce(flat)
    mean = flat[:-1] / flat[-1]
    means = torch.split(mean, [gradient.numel() for gradient in gradients])
    for parameter, gradient in zip(trained, means, strict=True):
        parameter.grad = gradient.view_as(parameter)


def total(values: Tensor) -> Tensor:
    """The sum of a tensor over the processes, in every process."""
    if num_processes() > 1:
        dist.all_reduce(values)
    return values
