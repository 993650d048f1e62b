"""A stage's whole state as flat tensors and plain values, for one safetensors file without a pickle."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


def pack(module: nn.Module, optimiser: Optimizer, best: dict[str, Tensor]) -> tuple[dict[str, Tensor], Any]:
    """Return weights, best weights and optimiser state as flat tensors, the rest as plain values."""
    state = optimiser.state_dict()
    parts = {f"optimiser/{index}": slots for index, slots in state["state"].items()}
    parts |= {"weights": module.state_dict(), "best": best}
    tensors = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
    return {name: value for name, value in tensors.items() if value is not None}, state["param_groups"]


def unpack(tensors: dict[str, Tensor], groups: Any, module: nn.Module, optimiser: Optimizer) -> dict[str, Tensor]:
    """Restore what `pack` gave; return the best weights."""
    module.load_state_dict(_part(tensors, "weights/"))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _part(tensors, "optimiser/").items():
        index, slot = name.split("/")
        state.setdefault(int(index), {})[slot] = value
    optimiser.load_state_dict({"state": state, "param_groups": groups})
    return _part(tensors, "best/")


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
