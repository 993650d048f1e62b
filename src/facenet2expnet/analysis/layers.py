"""The layers of any network of ours by name: their shapes, their outputs, and a module to hook onto.

face net               its taps
face net fine-tuned    its taps, and `scores`
expression net         conv1, pool1, … conv5, pool5, bridge, fc6 (conv and fc6 after their ReLU), and `scores`
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from facenet2expnet.crop import centre_crop
from facenet2expnet.errors import UserError
from facenet2expnet.nets.classifier import ExpressionClassifier, FaceClassifier
from facenet2expnet.nets.face.base import ChainFaceNet, FaceNet

BATCH = 64
SCORES = "scores"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and as it was afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def layer_names(model: nn.Module) -> tuple[str, ...]:
    """The names of a network's layers, shallow to deep.

    Raises:
        UserError: If it is neither an expression net nor a face net of ours.
    """
    if isinstance(model, FaceNet):
        return tuple(model.info.taps)
    if isinstance(model, FaceClassifier):
        # A tap behind the embedding (dlib's descriptor) was not trained by stage 0, but is there all the same.
        return (*model.face_net.info.taps, SCORES)
    if isinstance(model, ExpressionClassifier):
        return tuple(_expression_layers(model))
    raise UserError(
        f"expected a face net, a fine-tuned face net or an expression net, got {type(model).__name__}"
    )


def layer_shapes(model: nn.Module, crop_px: int) -> dict[str, tuple[int, ...]]:
    """Layer name -> (C, H, W) or (U,) of its output for one crop of `crop_px`."""
    crop = torch.full((1, 3, crop_px, crop_px), 127.5, device=device_of(model))
    with torch.no_grad(), evaluating(model):
        found = layer_outputs(model, crop, layer_names(model))
    return {name: tuple(values.shape[1:]) for name, values in found.items()}


def layer_outputs(model: nn.Module, crops: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """RGB crops (B, 3, H, W) in 0..255 -> layer name -> its output; gradients flow back to the crops.

    Raises:
        UserError: If a layer does not exist; the message lists those that do.
    """
    check_layers(model, names)
    if isinstance(model, FaceNet):
        return dict(model(crops, list(names)))
    if isinstance(model, FaceClassifier):
        taps = [name for name in names if name != SCORES]
        found = dict(model.face_net(crops, taps)) if taps else {}
        if SCORES in names:
            found[SCORES] = model(crops)
        return {name: found[name] for name in names}
    assert isinstance(model, ExpressionClassifier)
    layers = _expression_layers(model)
    found = {}

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        return layers[name].register_forward_hook(
            lambda _module, _inputs, output: found.update({name: output})
        )

    handles = [keep(name) for name in names]
    try:
        model(crops)
    finally:
        for handle in handles:
            handle.remove()
    return {name: found[name] for name in names}


def responses(
    model: nn.Module, pixels: np.ndarray, names: Sequence[str], crop_px: int, batch: int = BATCH
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The outputs of layers on the centre crops of all pictures, batch by batch, without gradients.

    Args:
        model: in any mode; it is run in evaluation mode.
        pixels: (N, S, S, 3) uint8 RGB.
        names: of layers.
        crop_px: side of the centre crop, at most S.
        batch: pictures at a time.
    Yields:
        The number of the batch's first picture; layer name -> (B, C, H, W) or (B, U).
    Raises:
        UserError: If a layer does not exist, pictures are too small, or an output is not finite.
    """
    check_layers(model, names)
    check_pixels(pixels, crop_px)
    device = device_of(model)
    for first in range(0, len(pixels), batch):
        # Both contexts are left before yielding: held by a paused generator they would leak into the caller.
        with torch.no_grad(), evaluating(model):
            crops = crops_of(pixels[first : first + batch], crop_px, device)
            found = layer_outputs(model, crops, names)
        for name, values in found.items():
            _check_finite(name, values, first)
        yield first, found


def crops_of(pixels: np.ndarray, crop_px: int, device: torch.device | str = "cpu") -> Tensor:
    """Stored faces (B, S, S, 3) uint8 -> their centre crops (B, 3, crop_px, crop_px) float in 0..255."""
    stored = torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(0, 3, 1, 2)
    return centre_crop(stored, crop_px).float()


def all_responses(model: nn.Module, pixels: np.ndarray, name: str, crop_px: int) -> np.ndarray:
    """One layer's output on all pictures, flattened, (N, U) float32."""
    parts = [
        found[name].flatten(1).float().cpu().numpy() for _, found in responses(model, pixels, [name], crop_px)
    ]
    return np.concatenate(parts)


def check_layers(model: nn.Module, names: Sequence[str]) -> None:
    """Raises UserError if a name is no layer of the model's."""
    known = layer_names(model)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        asked = f"has no layer '{unknown[0]}'" if unknown else "was asked for no layer"
        raise UserError(f"{title(model)} {asked}; its layers are {', '.join(known)}")


def check_pixels(pixels: np.ndarray, crop_px: int) -> None:
    """Raises UserError unless pixels are (N, S, S, 3) uint8, N > 0 and S >= crop_px."""
    if (
        pixels.ndim != 4
        or pixels.shape[3] != 3
        or pixels.dtype != np.uint8
        or pixels.shape[1] != pixels.shape[2]
    ):
        raise UserError(f"expected pictures (N, S, S, 3) uint8, got {pixels.shape} {pixels.dtype}")
    if not len(pixels):
        raise UserError("expected one picture at least, got none")
    if pixels.shape[1] < crop_px:
        raise UserError(
            f"pictures are {pixels.shape[1]} pixels wide, expected {crop_px} or more: the network's crop"
        )


def check_labels(labels: np.ndarray, classes: Sequence[str], pictures: int) -> None:
    """Raises UserError unless every picture has a class and every class a picture."""
    if len(labels) != pictures:
        raise UserError(f"expected one label a picture, got {len(labels)} for {pictures}")
    missing = int((labels < 0).sum())
    if missing:
        raise UserError(
            f"{missing} of {pictures} pictures have no label, expected one for each: fill the manifest's label "
            "column, or take those rows out"
        )
    if len(classes) < 2:
        raise UserError(f"expected two classes or more, got {len(classes)} ({', '.join(classes)})")
    if labels.max() >= len(classes):
        raise UserError(
            f"a label is {labels.max()}, expected numbers below {len(classes)}, the number of classes"
        )
    counts = np.bincount(labels, minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if empty:
        raise UserError(
            f"class '{empty[0]}' has no picture, expected one at least in each of {', '.join(classes)}: add "
            "pictures, or take the class out of the manifest"
        )


def check_spatial(model: nn.Module, name: str, crop_px: int) -> tuple[int, int, int]:
    """The (C, H, W) of a layer with maps.

    Raises:
        UserError: If the layer does not exist or gives no maps.
    """
    check_layers(model, [name])
    shapes = layer_shapes(model, crop_px)
    shape = shapes[name]
    if len(shape) != 3:
        maps = [layer for layer, its in shapes.items() if len(its) == 3]
        raise UserError(
            f"layer '{name}' of {title(model)} is not spatial: it gives {shape[0]} numbers, expected maps "
            f"(C, H, W); layers with maps are {', '.join(maps)}"
        )
    return shape[0], shape[1], shape[2]


def can_probe(model: nn.Module) -> bool:
    """Whether `probed` works on a network: it has class scores, and its layers can be hooked."""
    if isinstance(model, FaceClassifier):
        return isinstance(model.face_net, ChainFaceNet)
    return isinstance(model, ExpressionClassifier)


def probed(model: nn.Module, name: str) -> tuple[nn.Module, nn.Module]:
    """A classifier with the same weights, and a module in it whose output is the layer, for hooks and gradients.

    Raises:
        UserError: If the layer lies on no path to the scores that a hook can reach.
    """
    check_layers(model, [name])
    if isinstance(model, ExpressionClassifier):
        return model, _expression_layers(model)[name]
    if not isinstance(model, FaceClassifier):
        raise UserError(
            f"{title(model)} has no class scores; fine-tune it first, and give the fine-tuned one"
        )
    if not isinstance(model.face_net, ChainFaceNet):
        raise UserError(
            f"the layers of {title(model)} can't be hooked; expected a face net written as a chain"
        )
    chain = _ProbedChain(model.face_net, name)
    twin = copy.copy(model)
    twin._modules = dict(model._modules)
    twin.face_net = chain
    return twin, chain.probe


class _ProbedChain(ChainFaceNet):
    """A face net that sends one tap's output through an identity module, which can be hooked."""

    def __init__(self, inner: ChainFaceNet, name: str) -> None:
        super().__init__()
        self.info = inner.info
        self.inner, self.name, self.probe = inner, name, nn.Identity()

    def step(self, name: str, features: Tensor) -> Tensor:
        stepped = self.inner.step(name, features)
        return self.probe(stepped) if name == self.name else stepped


def hidden_layer(model: nn.Module) -> str:
    """The top hidden layer: the expression net's fc6, the face net's embedding (FN2EN, section IV-B)."""
    if isinstance(model, FaceClassifier):
        return model.embedding
    if isinstance(model, FaceNet):
        return model.info.embedding
    check_layers(model, ["fc6"])
    return "fc6"


def class_count(model: nn.Module) -> int:
    """The number of class scores; 0 for a face net without a classifier."""
    if isinstance(model, FaceNet):
        return 0
    check_layers(model, [SCORES])
    head = model.get_submodule(
        "net.head.scores" if isinstance(model, ExpressionClassifier) else "head.scores"
    )
    assert isinstance(head, nn.Linear)
    return head.out_features


def title(model: nn.Module) -> str:
    """What a network is called in messages."""
    if isinstance(model, FaceNet):
        return model.info.name
    if isinstance(model, FaceClassifier):
        return f"{model.face_net.info.name}, fine-tuned"
    return "the expression net" if isinstance(model, ExpressionClassifier) else type(model).__name__


def device_of(model: nn.Module) -> torch.device:
    """Where the network's weights lie; the CPU for one that has none."""
    weight = next(model.parameters(), None)
    return torch.device("cpu") if weight is None else weight.device


def _expression_layers(model: ExpressionClassifier) -> dict[str, nn.Module]:
    blocks = model.net.convolutions
    layers: dict[str, nn.Module] = {}
    for name, module in blocks.named_children():
        if name.startswith("relu"):
            layers["conv" + name.removeprefix("relu")] = module
        elif name.startswith("pool"):
            layers[name] = module
    return {
        **layers,
        "bridge": model.net.bridge,
        "fc6": model.net.head.get_submodule("relu6"),
        SCORES: model.net.head.get_submodule("scores"),
    }


def _check_finite(name: str, values: Tensor, first: int) -> None:
    finite = values.flatten(1).isfinite().all(dim=1)
    if not bool(finite.all()):
        picture = first + int((~finite).nonzero()[0])
        raise UserError(
            f"layer '{name}' gives NaN or infinity for picture {picture}, expected finite numbers: the network's "
            "weights are broken, most likely by a training that diverged"
        )
