"""How large a network is and how fast it answers."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

REPEATS = 9
BATCH = 32


@dataclass(frozen=True)
class Size:
    """Size and speed of one network.

    Attributes:
        method: which it is.
        parameters: learned numbers.
        megabytes: of its weights in 32 bits, in units of 10^6 bytes.
        ms_per_picture: median over repeats of a batch of 32, divided by 32.
        ms_single: median over repeats of a single picture.
        multiply_adds: of convolutions and matrix products, for one picture.
    """

    method: str
    parameters: int
    megabytes: float
    ms_per_picture: float
    ms_single: float
    multiply_adds: int


@torch.inference_mode()
def measure(method: str, model: nn.Module, crop_px: int, device: torch.device) -> Size:
    """Count the weights and time the forward pass on random crops, after two passes to warm up."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    model = model.to(device).eval()
    batch = torch.randint(0, 256, (BATCH, 3, crop_px, crop_px), device=device).float()
    return Size(
        method,
        parameters,
        parameters * 4 / 1e6,
        _milliseconds(model, batch) / BATCH,
        _milliseconds(model, batch[:1]),
        _multiply_adds(model, batch[:1]),
    )


def _multiply_adds(model: nn.Module, crop: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counted:
        model(crop)
    return int(counted.get_total_flops()) // 2


def _milliseconds(model: nn.Module, crops: torch.Tensor) -> float:
    times = []
    for _ in range(REPEATS + 2):
        started = time.perf_counter()
        model(crops)
        if crops.is_cuda:
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[2:])
