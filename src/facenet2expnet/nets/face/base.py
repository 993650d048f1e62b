"""The base of all face nets: layers by name, preprocessing, metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.device import to_device
from facenet2expnet.errors import UserError

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class FaceNetInfo:
    """Metadata of a face net.

    Attributes:
        name: `load(name, "generated")` builds the same net, so that a saved fine-tuned one can be loaded into it.
        input_px: side of the square input, in pixels.
        mean_rgb: subtracted from pixels in 0..255, in RGB order.
        scale: divides the difference.
        taps: layer name -> (C, H, W) or (U,) of its output at `input_px`, shallow to deep.
        embedding: the tap that gets a new classifier when the net is fine-tuned.
        default_tap: the tap that stage 1 distils if the recipe names none.
        licence, source: of the weights.
        colour: channel order of the first layer, "rgb" or "bgr".
        notes: sentences on what was assumed when the weights were read.
    """

    name: str
    input_px: int
    mean_rgb: tuple[float, float, float]
    scale: float
    taps: dict[str, tuple[int, ...]]
    embedding: str
    default_tap: str
    licence: str
    source: str
    colour: str = "rgb"
    notes: tuple[str, ...] = ()


class FaceNet(nn.Module):
    """A face net: RGB crops of any size in, outputs of named layers out; subclasses set `info`, write `features`."""

    info: FaceNetInfo

    def preprocess(self, crops: Tensor) -> Tensor:
        """Turn RGB crops (B, 3, H, W) in 0..255 into the net's input (B, 3, input_px, input_px)."""
        crops = crops if crops.is_floating_point() else crops.float()
        size = (self.info.input_px, self.info.input_px)
        if crops.shape[-2:] != size:
            crops = functional.interpolate(crops, size, mode="bilinear", antialias=crops.shape[-1] > size[1])
        mean = to_device(torch.tensor(self.info.mean_rgb, dtype=crops.dtype), crops.device).view(1, 3, 1, 1)
        normalised = (crops - mean) / self.info.scale
        return normalised.flip(1) if self.info.colour == "bgr" else normalised

    def features(self, inputs: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """Return the outputs of the named layers for preprocessed inputs; stop after the deepest one."""
        raise NotImplementedError

    def forward(self, crops: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """Return layer name -> output (B, C, H', W') or (B, U) for RGB crops (B, 3, H, W) in 0..255.

        Raises:
            UserError: If a tap does not exist; the message lists the taps.
        """
        unknown = [tap for tap in taps if tap not in self.info.taps]
        if unknown:
            raise UserError(f"{self.info.name} has no layer '{unknown[0]}'; its layers are {', '.join(self.info.taps)}")
        return self.features(self.preprocess(crops), taps)


class ChainFaceNet(FaceNet):
    """A face net whose taps form a chain, each computed from the one before."""

    def step(self, name: str, features: Tensor) -> Tensor:
        """Compute tap `name` from the tap before it (the first: from the inputs); here by the module of this name."""
        return features.mean(dim=(2, 3)) if name == "pooled" else self.get_submodule(name)(features)

    def features(self, inputs: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """Return the outputs of the named layers for preprocessed inputs; stop after the deepest one."""
        outputs: dict[str, Tensor] = {}
        # Channels last saves a quarter of the time on a CPU; the caller gets the usual layout.
        on_cpu = inputs.device.type == "cpu"
        features = inputs.contiguous(memory_format=torch.channels_last) if on_cpu else inputs
        for name in self.info.taps:
            if len(outputs) == len(set(taps)):
                break
            features = self.step(name, features)
            if name in taps:
                outputs[name] = features.contiguous()
        return {name: outputs[name] for name in taps}


def rest_frozen_norms(net: nn.Module) -> None:
    """Put every batch norm with frozen parameters into evaluation mode, so that its statistics stay."""
    for module in net.modules():
        own = [parameter.requires_grad for parameter in module.parameters()]
        if isinstance(module, BATCH_NORMS) and own and not any(own):
            module.eval()


def freeze_norms(net: nn.Module) -> None:
    """Freeze the weights of a net's batch norms; `rest_frozen_norms` then keeps their running statistics too."""
    for module in net.modules():
        if isinstance(module, BATCH_NORMS):
            module.requires_grad_(False)


def weights_sha256(net: nn.Module) -> str:
    """Return a hash of every parameter and buffer, by name: nets with equal hashes give equal features."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
