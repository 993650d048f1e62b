"""What every face net offers: layers by name, its own preprocessing, its provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class FaceNetInfo:
    """What a face net is and expects.

    Attributes:
        name: what it is loaded by: `load(name, "generated")` gives the same net with other weights, so that a
            fine-tuned one can be built again and given its own.
        input_px: side of the square picture that it was trained on, in pixels.
        mean_rgb: subtracted from pixels in 0..255, in RGB order.
        scale: divides the difference.
        colour: order of the channels that its first layer expects, "rgb" or "bgr".
        taps: layer name -> (C, H, W) or (U,) of its output at `input_px`, shallow to deep.
        embedding: the tap that a new classifier is put upon when the net is fine-tuned.
        default_tap: the tap that stage 1 regresses on when none is named.
        licence: of the weights.
        source: where the weights come from.
        notes: plain sentences on what was taken for granted when the weights were read.
    """

    name: str
    input_px: int
    mean_rgb: tuple[float, float, float]
    scale: float
    colour: str
    taps: dict[str, tuple[int, ...]]
    embedding: str
    default_tap: str
    licence: str
    source: str
    notes: tuple[str, ...] = ()


class FaceNet(nn.Module):
    """Base of the face nets: subclasses set `info` and write `features`.

    A face net takes RGB crops in 0..255 of any size, brings them to its own size, colour order and scale, and
    gives the outputs of the layers that are asked for by name.
    """

    info: FaceNetInfo

    def freeze(self) -> Self:
        """Take every parameter out of training; the net then stays in evaluation mode, batch norms too."""
        return self.requires_grad_(False)

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that learn: all of them unless the net, or a part of it, was frozen."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """As in nn.Module; what was frozen goes into evaluation mode at once."""
        super().requires_grad_(requires_grad)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As in nn.Module, but what is frozen stays in evaluation mode.

        A net without trainable parameters stays in it whole (dropout too); otherwise each batch norm does
        whose own parameters are frozen, since its running statistics are part of what was to be kept.
        """
        super().train(mode and bool(self.trainable()))
        rest_frozen_norms(self)
        return self

    def preprocess(self, crops: Tensor) -> Tensor:
        """RGB crops (B, 3, H, W), 0..255 -> the net's own input (B, 3, input_px, input_px)."""
        crops = crops if crops.is_floating_point() else crops.float()
        size = (self.info.input_px, self.info.input_px)
        if crops.shape[-2:] != size:
            shrinking = crops.shape[-1] > self.info.input_px
            crops = functional.interpolate(
                crops, size=size, mode="bilinear", align_corners=False, antialias=shrinking
            )
        mean = crops.new_tensor(self.info.mean_rgb).view(1, 3, 1, 1)
        normalised = (crops - mean) / self.info.scale
        return normalised.flip(1) if self.info.colour == "bgr" else normalised

    def features(self, inputs: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """Outputs of the named layers for preprocessed inputs; stops after the deepest layer asked for."""
        raise TypeError(f"{type(self).__name__} has to define features()")

    def forward(self, crops: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """RGB crops (B, 3, H, W) in 0..255 -> layer name -> its output (B, C, H', W') or (B, U).

        Raises:
            ValueError: If a tap does not exist; the message lists those that do.
        """
        unknown = [tap for tap in taps if tap not in self.info.taps]
        if unknown:
            raise ValueError(
                f"{self.info.name} has no layer '{unknown[0]}'; its layers are {', '.join(self.info.taps)}"
            )
        return self.features(self.preprocess(crops), taps)


class ChainFaceNet(FaceNet):
    """A face net whose taps lie on one chain, each computed from the one before: subclasses write `step`."""

    def step(self, name: str, features: Tensor) -> Tensor:
        """From the output of the tap before `name` (from the preprocessed inputs, for the first) to `name`'s."""
        raise TypeError(f"{type(self).__name__} has to define step()")

    def features(self, inputs: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """Outputs of the named layers for preprocessed inputs; stops after the deepest layer asked for."""
        wanted: set[str] = set(taps)
        found: dict[str, Tensor] = {}
        # Channels last saves a quarter of the time on a CPU; the caller gets the usual layout all the same.
        on_cpu = inputs.device.type == "cpu"
        features = inputs.contiguous(memory_format=torch.channels_last) if on_cpu else inputs
        for name in self.info.taps:
            if not wanted:
                break
            features = self.step(name, features)
            if name in wanted:
                found[name] = features.contiguous()
                wanted.remove(name)
        return {name: found[name] for name in taps}


def rest_frozen_norms(net: nn.Module) -> None:
    """Put every batch norm whose own parameters are all frozen into evaluation mode: its statistics stay."""
    for module in net.modules():
        if isinstance(module, BATCH_NORMS):
            own = [parameter.requires_grad for parameter in module.parameters()]
            if own and not any(own):
                module.eval()


def freeze_norms(net: nn.Module) -> None:
    """Take the batch norms of a net out of training: their weights and their running statistics stay."""
    for module in net.modules():
        if isinstance(module, BATCH_NORMS):
            module.requires_grad_(False)


def weights_sha256(net: nn.Module) -> str:
    """A hash of every parameter and buffer, by name: two nets with one hash give the same features."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


Loader = Callable[[Path | None], FaceNet]
