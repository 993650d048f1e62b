"""A stage's whole state as flat tensors and plain values, for one safetensors file without a pickle."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


def pack(
    module: nn.Module, optimiser: Optimizer, averaged: nn.Module | None, best: dict[str, Tensor]
) -> tuple[dict[str, Tensor], Any]:
    """Weights, averaged weights, best weights and optimiser state as flat tensors, the rest as plain values."""
    tensors = {f"weights/{name}": value for name, value in module.state_dict().items()}
    if averaged is not None:
        tensors |= {f"averaged/{name}": value for name, value in averaged.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in best.items()}
    state = optimiser.state_dict()
    for index, slots in state["state"].items():
        for slot, value in slots.items():
            if value is not None:
                tensors[f"optimiser/{index}/{slot}"] = value
    return tensors, state["param_groups"]


def unpack(
    tensors: dict[str, Tensor],
    groups: Any,
    module: nn.Module,
    optimiser: Optimizer,
    averaged: nn.Module | None,
) -> dict[str, Tensor]:
    """Put back what `pack` took out; returns the best weights."""
    module.load_state_dict(_below(tensors, "weights/"))
    if averaged is not None:
        averaged.load_state_dict(_below(tensors, "averaged/"))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _below(tensors, "optimiser/").items():
        index, slot = name.split("/")
        state.setdefault(int(index), {})[slot] = value
    optimiser.load_state_dict({"state": state, "param_groups": groups})
    return _below(tensors, "best/")


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
