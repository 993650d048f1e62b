"""Where networks compute: the device, and the precision of a forward pass in training."""

from __future__ import annotations

import os
import platform
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from facenet2expnet.errors import UserError

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of a name; "auto" is the first GPU that PyTorch sees, otherwise the CPU.

    Raises:
        UserError: If there is no such device here.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    if name not in DEVICES:
        raise UserError(f"device is '{name}', expected one of {', '.join(DEVICES)}")
    if (name == "cuda" and not cuda) or (name == "mps" and not mps):
        raise UserError(f"device is '{name}', but PyTorch sees no such GPU here; use cpu or auto")
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """Return the name of a GPU or of the processor, for records."""
    if device.type != "cuda":
        return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    return torch.cuda.get_device_name(device) if torch.cuda.is_available() else "GPUs of a cluster"


def fitting_precision(device: torch.device, precision: str) -> str:
    """Return a recipe's precision, with "auto" decided: "bf16-mixed" where the hardware multiplies bfloat16 itself.

    Those are processors with AVX512-BF16 or AMX, and CUDA cards with native bfloat16. On others it would be slower.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        if not torch.cuda.is_available():  # GPUs of a cluster: each decides when its job begins
            return precision
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # older PyTorch does not have it
        capabilities = torch.cpu.get_capabilities()
        native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
    else:
        native = False
    return "bf16-mixed" if native else "32-true"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context of a forward pass: "32-true" changes nothing, "bf16-mixed" computes in bfloat16."""
    if precision == "32-true":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; a copy from the CPU to CUDA need not wait for what is queued there.

    A blocking copy of pageable memory ends in a synchronisation of the stream. A non-blocking one returns once CUDA has
    staged the source, which may then be changed.
    """
    return tensor.to(device, non_blocking=device.type == "cuda" and tensor.device.type == "cpu")
