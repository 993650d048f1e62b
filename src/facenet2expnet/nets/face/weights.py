"""Weights of face nets: found on disk or fetched, read without running foreign code, matched by name and shape."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.download import download, file_sha256, from_hugging_face, without_tilde

Net = TypeVar("Net", bound=nn.Module)

GENERATED = "generated"
"""Given in place of a file: weights drawn from a fixed seed, of the true shapes. For tests and trials."""

WRAPPERS = ("state_dict", "state_dict_backbone", "model_state_dict", "model", "net", "weights")
PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.", "net.")
LISTED = 4
"""How many tensors of each kind of fault a message names."""


def locate(reference: str | Path) -> Path:
    """The weights file that a reference names, downloaded where it has to be.

    Args:
        reference: a path; hf:owner/name/file (owner/name@revision/file); or https://…#sha256=HEX. The ending
            #sha256=HEX may follow any of them, and must follow a URL.
    Raises:
        UserError: If there is no such file, it cannot be had, or it is not the one of the checksum.
    """
    text, _, sha256 = str(reference).partition("#sha256=")
    if re.match("https?://", text):
        if not sha256:
            raise UserError(
                f"{text}: a URL needs the checksum of its file, as in {text}#sha256=HEX, so that nothing else is "
                "loaded; `sha256sum FILE` prints it for a file that you trust"
            )
        return download(text, sha256)
    path = from_hugging_face(text.removeprefix("hf:")) if text.startswith("hf:") else without_tilde(text)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise UserError(
            f"{path}: {what}; expected a weights file, hf:owner/name/file or https://…#sha256=HEX"
        )
    if sha256 and file_sha256(path) != sha256.lower():
        raise UserError(
            f"{path}: expected a file with sha256 {sha256.lower()}, got one with {file_sha256(path)}"
        )
    return path


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth, .pt or .safetensors file by name, floating ones as float32, on the CPU.

    A dictionary wrapped in another ("state_dict", "model", …) is unwrapped, and a prefix that most names have
    ("module.", "backbone.", …) is taken off. What a file is, is told by its content, whatever its ending. Files that
    hold code are refused, never run.

    Raises:
        UserError: If the file is none of these, is damaged, or holds more than weights.
    """
    head = path.open("rb").read(64)
    reason = _not_weights(head)
    if reason:
        raise UserError(f"{path}: expected weights (.pth, .pt or .safetensors), found {reason}")
    try:
        if head[8:9] == b"{":  # safetensors: its header, behind the length of it
            content = load_file(path)
        else:
            with path.open("rb") as file:  # given a path, PyTorch would go by its ending
                content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the readers raise almost anything
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise UserError(
                f"{path}: expected a file of weights alone, found one that holds Python objects (a whole model?); "
                "such files can run code when they are read. Save it again with torch.save(model.state_dict(), …)"
            ) from error
        if "TorchScript" in str(error):
            raise UserError(
                f"{path}: expected a file of weights alone, found a TorchScript model, which holds code; save its "
                "weights with torch.save(torch.jit.load(PATH).state_dict(), …) if you trust it"
            ) from error
        raise UserError(
            f"{path}: expected weights (.pth, .pt or .safetensors), found a file that is cut short, damaged or of "
            f"another kind ({type(error).__name__})"
        ) from error
    return _unwrapped(content, path)


def _not_weights(head: bytes) -> str | None:
    """What a file is that begins so, where it is a well-known mistake."""
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; fetch the file itself with `git lfs pull`"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page; the download led to a page and not to the file"
    return None


def _unwrapped(content: object, path: Path) -> dict[str, Tensor]:
    """The dictionary of tensors inside what a file held."""
    outer: set[int] = set()  # a dictionary that holds itself would never end
    while isinstance(content, Mapping) and id(content) not in outer:
        outer.add(id(content))
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = (
        {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise UserError(f"{path}: expected a dictionary of tensors by name, found a {type(content).__name__}")
    while prefix := next(
        (p for p in PREFIXES if 2 * sum(name.startswith(p) for name in tensors) > len(tensors)), None
    ):
        bare = {name.removeprefix(prefix): value for name, value in tensors.items()}
        if len(bare) < len(tensors):  # two tensors would get one name
            break
        tensors = bare
    return {
        name: value.detach().float() if value.is_floating_point() else value.detach()
        for name, value in tensors.items()
    }


def looks_like(state: Mapping[str, Tensor]) -> str | None:
    """The face net of ours that weights seem to be of, by their names."""
    if "layer1.0.prelu.weight" in state and "layer4.0.bn3.weight" in state:
        blocks = len({name.split(".")[1] for name in state if re.match(r"layer3\.\d+\.", name)})
        return {2: "iresnet18", 6: "iresnet34", 14: "iresnet50", 30: "iresnet100"}.get(
            blocks, "an IResNet of another depth"
        )
    if "repeat_1.0.branch0.conv.weight" in state and "mixed_6a.branch0.conv.weight" in state:
        return "inception-resnet-v1"
    if {"fc6.weight", "fc7.weight"} <= set(state) and ({"conv1_1.weight", "conv_1_1.weight"} & set(state)):
        return "vgg-face"
    if "features.0.weight" in state and "features.28.weight" in state:
        return "vgg-face (or another VGG-16)"
    return None


def load_into(net: nn.Module, state: Mapping[str, Tensor], origin: str, name: str) -> None:
    """Give a net its weights; every name and shape has to fit. The net may be on the meta device.

    Args:
        net: built, without weights.
        state: name -> tensor.
        origin: the file, for messages.
        name: the face net's, for messages.
    Raises:
        UserError: If it is the file of another net, names or shapes differ, or a tensor holds no finite floating
            numbers; says which of these.
    """
    expected = net.state_dict()
    counters = {key for key in expected if key.endswith("num_batches_tracked")}
    given = dict(state) | {key: torch.zeros((), dtype=torch.int64) for key in counters - set(state)}
    missing = [key for key in expected if key not in given]
    extra = [key for key in given if key not in expected]
    misshapen = [key for key in expected if key in given and given[key].shape != expected[key].shape]
    if missing or extra or misshapen:
        raise UserError(f"{origin}: {_fault(expected, given, missing, extra, misshapen, name)}")
    unfit = [f"{key} is {why}" for key in expected if (why := _unfit(given[key], expected[key]))]
    if unfit:
        raise UserError(f"{origin}: expected finite floating-point weights for {name}, but {_listed(unfit)}")
    net.load_state_dict(given, strict=True, assign=True)


def _unfit(value: Tensor, expected: Tensor) -> str | None:
    """Why a tensor of the right name and shape is no weight, in a word."""
    if value.is_meta:
        return "without numbers"
    if value.layout != torch.strided:
        return "sparse"
    if expected.is_floating_point() and not value.is_floating_point():
        return str(value.dtype).removeprefix("torch.")
    if expected.is_floating_point() and not value.sum(dtype=torch.float64).isfinite():
        return "not finite"
    return None


def _fault(
    expected: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    missing: list[str],
    extra: list[str],
    misshapen: list[str],
    name: str,
) -> str:
    """Why weights do not fit: another net's file, other names, or other shapes."""
    look = looks_like(given)
    if look and look.split(" ")[0] != name:
        advice = (
            "there is no such face net here" if look.startswith("an ") else "ask for that face net instead"
        )
        return f"expected the weights of {name}, but these look like those of {look}; {advice}"
    weights = [key for key in expected if not key.endswith("num_batches_tracked")]
    fitting = sum(key in given for key in weights)
    shapes = Counter(tuple(expected[key].shape) for key in weights)
    if len(missing) > len(weights) / 2:
        if shapes == Counter(tuple(given[key].shape) for key in extra):
            return (
                f"the shapes are those of {name}, but the names are others: expected {_some(missing, expected)}, "
                f"found {_some(extra, given)}; rename them"
            )
        return (
            f"these are not the weights of {name}: {fitting} of its {len(weights)} tensors are there. Expected "
            f"{_some(missing, expected)}; found {_some(extra or list(given), given)}"
        )
    faults = []
    if missing:
        faults.append(f"{len(missing)} tensors are missing: {_some(missing, expected)}")
    if extra:
        faults.append(f"{len(extra)} tensors do not belong to it: {_some(extra, given)}")
    if misshapen:
        pairs = [f"{key} {tuple(given[key].shape)}, not {tuple(expected[key].shape)}" for key in misshapen]
        faults.append(f"{len(misshapen)} tensors have another shape: {_listed(pairs)}")
    return f"most names are those of {name}, but " + "; ".join(faults)


def _some(names: list[str], tensors: Mapping[str, Tensor]) -> str:
    return _listed([f"{name} {tuple(tensors[name].shape)}" for name in names])


def _listed(entries: list[str]) -> str:
    rest = len(entries) - LISTED
    return ", ".join(entries[:LISTED]) + (f" and {rest} more" if rest > 0 else "")


def generated(build: Callable[[], Net], seed: int = 0) -> Net:
    """A net with weights drawn from a seed: biases and means 0, scales and variances 1, all else normal (He).

    Where `torch.device("meta")` is in force nothing is drawn: the net has names and shapes alone.

    Args:
        build: makes the net; called on the meta device, so that nothing is drawn twice.
        seed: the same seed gives the same weights.
    """
    with torch.device("meta"):
        net = build()
    if torch.get_default_device().type == "meta":
        return net
    net.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in net.named_parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
        else:
            nn.init.constant_(parameter, 0.0 if name.endswith(("bias", "shift")) else 1.0)
    for module in net.modules():
        if isinstance(module, nn.PReLU | nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_parameters()
    return net
