"""Measure the size and the speed of a network."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

REPEATS = 9
BATCH = 32


@torch.inference_mode()
def measure(method: str, model: nn.Module, crop_px: int, device: torch.device) -> dict[str, Any]:
    """Count the weights, and time the forward pass on random crops after two warm-up passes.

    Returns:
        A row of sizes.json: method; parameters; megabytes (10^6 bytes, of weights in 32 bits); ms_per_picture (median
        time of a batch of 32, divided by 32); ms_single (median time of one picture); multiply_adds (of convolutions
        and matrix products, for one picture).
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if device.type == "cuda" and not torch.cuda.is_available():  # the trainings ran on the GPUs of a cluster
        device = torch.device("cpu")
    model = model.to(device).eval()
    batch = torch.randint(0, 256, (BATCH, 3, crop_px, crop_px), device=device).float()
    with FlopCounterMode(display=False) as counted:
        model(batch[:1])
    return {
        "method": method,
        "parameters": parameters,
        "megabytes": parameters * 4 / 1e6,
        "ms_per_picture": _milliseconds(model, batch) / BATCH,
        "ms_single": _milliseconds(model, batch[:1]),
        "multiply_adds": int(counted.get_total_flops()) // 2,
    }


def _milliseconds(model: nn.Module, crops: torch.Tensor) -> float:
    times = []
    for _ in range(REPEATS + 2):
        started = time.perf_counter()
        model(crops)
        if crops.is_cuda:
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[2:])
