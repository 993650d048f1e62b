"""Read weights files without running code from them, and load them into nets by name and shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.base import FaceNetInfo

Net = TypeVar("Net", bound=nn.Module)

GENERATED = "generated"
"""Takes the place of a file: weights of the true shapes, drawn from a fixed seed. For tests and trials."""

WRAPPERS = ("state_dict", "state_dict_backbone", "model_state_dict", "model", "net", "weights")
PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.", "net.")
SHOWN = 4
"""Number of lines shown of PyTorch's message on weights that do not fit."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .pth, .pt or .safetensors file: name -> tensor on the CPU, floating ones as float32.

    A dictionary inside another ("state_dict", "model", …) is unwrapped, and a prefix of all names ("module.",
    "backbone.", …) is removed. The format is found from the content, not from the ending.

    Raises:
        UserError: If the file has another format, is damaged, or holds more than weights (code is never run).
    """
    head = b""
    try:
        with path.open("rb") as file:
            head = file.read(40)
            file.seek(0)
            is_safetensors = head[8:9] == b"{"  # the length of the header, then its JSON
            content: object = load_file(path) if is_safetensors else torch.load(file, "cpu", weights_only=True)
    except Exception as error:  # the readers raise almost any exception for a damaged file
        if "GLOBAL" in str(error) or "TorchScript" in str(error):
            raise UserError(
                f"{path}: expected a file of weights alone, got one that holds Python objects or a TorchScript model, "
                "which can run code when it is read; if you trust it, save its weights with "
                "torch.save(model.state_dict(), …)"
            ) from error
        raise UserError(
            f"{path}: expected weights (.pth, .pt or .safetensors), got a file that is damaged, cut short or of "
            f"another kind; it begins with {head!r}. Download it again, with `git lfs pull` for a Git LFS pointer"
        ) from error
    for _ in WRAPPERS:
        if isinstance(content, Mapping):
            inner = (content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping))
            content = next(inner, content)
    items = content.items() if isinstance(content, Mapping) else ()
    tensors = {str(key): value.detach() for key, value in items if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path}: expected a dictionary of tensors by name, got a {type(content).__name__}")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}


def read_weights(path: Path | None, info: FaceNetInfo) -> dict[str, Tensor]:
    """Read the weights file of a face net that has no weights of its own, as `read_state_dict`."""
    if path is None:
        raise UserError(
            f"{info.name} needs weights: give the path of a file from {info.source}, hf:owner/name/file, or "
            "https://…#sha256=HEX"
        )
    return read_state_dict(path)


def load_into(build: Callable[[], Net], state: dict[str, Tensor], origin: object, name: str) -> Net:
    """Build a net on the meta device and load weights into it; every name and shape must match.

    Args:
        origin, name: the file and the face net, for error messages.
    Raises:
        UserError: If tensors are missing, unexpected, of another shape, not floating-point or not finite.
    """
    with torch.device("meta"):
        net = build()
    counters = [key for key in net.state_dict() if key.endswith("num_batches_tracked")]  # missing in old files
    given = {key: torch.zeros((), dtype=torch.int64) for key in counters} | state
    try:
        net.load_state_dict(given, assign=True)
    except RuntimeError as error:
        faults = [line.strip()[:300] for line in str(error).splitlines()[1 : SHOWN + 1]]
        raise UserError(f"{origin}: expected the weights of {name}; {'; '.join(faults)}") from error
    broken = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise UserError(f"{origin}: expected finite weights, {', '.join(broken[:SHOWN])} are not; get the file again")
    return net


def generated(build: Callable[[], Net]) -> Net:
    """Build a net with weights drawn from seed 0: biases and means 0, scales and variances 1, the rest normal (He).

    Within `torch.device("meta")` nothing is drawn: the net has only names and shapes.
    """
    with torch.device("meta"):
        net = build()
    if torch.get_default_device().type == "meta":
        return net
    net.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in net.named_parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
        else:
            nn.init.constant_(parameter, 0.0 if name.endswith(("bias", "shift")) else 1.0)
    for module in net.modules():
        if isinstance(module, nn.PReLU | nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_parameters()
    return net
