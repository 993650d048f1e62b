"""The layers of our networks by name: their shapes, and their outputs for many images.

face net               its taps
face net fine-tuned    its taps, and `scores`
expression net         conv1, pool1, … conv5, pool5, bridge, fc6 (conv and fc6 after their ReLU), and `scores`

Networks are put into evaluation mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from facenet2expnet.crop import centre_crop
from facenet2expnet.errors import UserError
from facenet2expnet.nets.classifier import ExpressionClassifier, FaceClassifier
from facenet2expnet.nets.face.base import FaceNet

SCORES = "scores"


def layer_names(model: nn.Module) -> tuple[str, ...]:
    """The names of a network's layers, shallow to deep."""
    if isinstance(model, FaceNet):
        return tuple(model.info.taps)
    if isinstance(model, FaceClassifier):
        return (*model.face_net.info.taps, SCORES)
    kinds = ("conv", "pool", "bridge", "fc", SCORES)
    return tuple(dict.fromkeys(name for name, _ in _chain(model) if name.startswith(kinds)))


def layer_outputs(model: nn.Module, crops: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Compute layers for crops (B, 3, H, W) RGB in 0..255; gradients flow back to the crops.

    Returns:
        Layer name -> (B, C, H', W') or (B, U), in the order of the names.
    Raises:
        UserError: If a layer does not exist; the message lists those that do.
    """
    known = layer_names(model)
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"the network has no layer '{unknown[0]}'; its layers are {', '.join(known)}")
    model.eval()
    outputs: dict[str, Tensor] = {}
    if isinstance(model, FaceNet | FaceClassifier):
        net = model if isinstance(model, FaceNet) else model.face_net
        if taps := [name for name in names if name != SCORES]:
            outputs |= net(crops, taps)
        if SCORES in names:
            outputs[SCORES] = model(crops)
    else:
        features = model.normalise(crops)  # type: ignore[operator]
        for name, module in _chain(model):
            features = module(features)
            if name in names:
                outputs[name] = features
    return {name: outputs[name] for name in names}


def _chain(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules of an expression net in order; a convolution and its ReLU have one name, and the ReLU is later."""
    assert isinstance(model, ExpressionClassifier)
    net = model.net
    modules = [*net.convolutions.named_children(), ("bridge", net.bridge), *net.head.named_children()]
    return [(name.replace("relu6", "fc6").replace("relu", "conv"), module) for name, module in modules]


def layer_shapes(model: nn.Module, crop_px: int) -> dict[str, tuple[int, ...]]:
    """Layer name -> (C, H, W) or (U,) of its output for one crop of `crop_px`."""
    crop = crops_of(np.zeros((1, crop_px, crop_px, 3), np.uint8), crop_px, model)
    with torch.no_grad():
        outputs = layer_outputs(model, crop, layer_names(model))
    return {name: tuple(values.shape[1:]) for name, values in outputs.items()}


def layer_batches(
    model: nn.Module, pixels: np.ndarray, names: Sequence[str], crop_px: int, batch: int = 64
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Compute layers for the centre crops of all images (N, S, S, 3), batch by batch, without gradients.

    Yields:
        The number of the batch's first image; layer name -> (B, C, H, W) or (B, U).
    Raises:
        UserError: If a layer does not exist, or an output is not finite.
    """
    for first in range(0, len(pixels), batch):
        with torch.no_grad():  # left before the yield: a paused generator would leak it to its caller
            crops = crops_of(pixels[first : first + batch], crop_px, model)
            outputs = layer_outputs(model, crops, names)
        for name, values in outputs.items():
            check_finite(values, f"layer '{name}'")
        yield first, outputs


def layer_features(model: nn.Module, pixels: np.ndarray, name: str, crop_px: int) -> np.ndarray:
    """One layer's output for all images, (N, U) float32; maps are flattened."""
    batches = layer_batches(model, pixels, [name], crop_px)
    return np.concatenate([outputs[name].flatten(1).float().cpu().numpy() for _, outputs in batches])


def check_finite(values: Tensor, what: str) -> None:
    """Raises UserError if a value is NaN or infinite."""
    if not values.isfinite().all():
        raise UserError(
            f"{what} gives NaN or infinity, expected finite numbers: the network's weights are broken, most likely by "
            "a training that diverged"
        )


def crops_of(pixels: np.ndarray, crop_px: int, model: nn.Module) -> Tensor:
    """Images (B, S, S, 3), 0..255 -> centre crops (B, 3, crop_px, crop_px) float, on the model's device."""
    images = torch.from_numpy(np.ascontiguousarray(pixels))
    images = images.float() if images.is_floating_point() else images  # some devices have no 64-bit numbers
    images = images.to(next(model.parameters()).device)
    return centre_crop(images.permute(0, 3, 1, 2), crop_px)


def mean_crop(pixels: np.ndarray, crop_px: int, model: nn.Module) -> Tensor:
    """The mean of all images, centre-cropped: (1, 3, crop_px, crop_px) in 0..255, on the model's device."""
    return crops_of(pixels.mean(axis=0, dtype=np.float64)[None], crop_px, model)


def hidden_layer(model: nn.Module) -> str:
    """The top hidden layer: the expression net's fc6, the face net's embedding (FN2EN, section IV-B)."""
    if isinstance(model, FaceClassifier):
        return model.embedding
    return model.info.embedding if isinstance(model, FaceNet) else "fc6"
