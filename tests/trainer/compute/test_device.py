"""The choice of the device, on a machine without a GPU."""

from __future__ import annotations

import pytest
import torch

from trainer.compute.device import autocast, choose_device, peak_memory_bytes, to_device
from trainer.core.errors import ConfigError

CPU = torch.device("cpu")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


@without_gpu
def test_auto_is_the_cpu_and_a_missing_gpu_is_refused() -> None:
    assert choose_device("auto") == CPU
    for requested in ("cuda", "cuda:1"):
        with pytest.raises(ConfigError, match=r"fit\.device.*no GPU"):
            choose_device(requested)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("auto", torch.float32), ("float32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_a_cpu_computes_in_float32_by_default(precision, dtype) -> None:
    matrix = torch.ones(2, 2)
    with autocast(precision, CPU):
        assert (matrix @ matrix).dtype == dtype


def test_on_the_cpu_nothing_is_copied_and_peak_memory_is_that_of_the_process() -> None:
    tensor = torch.ones(3)
    assert to_device(tensor, CPU) is tensor
    before = peak_memory_bytes(CPU)
    block = torch.ones(40 << 20, dtype=torch.uint8)
    assert block.sum() > 0
    assert peak_memory_bytes(CPU) >= before > 0
