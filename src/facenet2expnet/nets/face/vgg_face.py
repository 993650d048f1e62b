"""VGG-Face: the VGG-16 of Parkhi et al., the face net of the paper.

Its weights are published in two colour orders: vgg_face_dag.pth, from MatConvNet, takes RGB (its mean, 129.2, 104.8,
93.6, is in that order), files converted from Caffe or Torch take BGR. The layer names of a file tell which. The first
convolution of a BGR file is reversed when it is read, so the net itself always takes RGB.

Source: O. M. Parkhi, A. Vedaldi, A. Zisserman, Deep Face Recognition, BMVC 2015,
https://www.robots.ox.ac.uk/~vgg/software/vgg_face/; FN2EN, section IV.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.base import ChainFaceNet, FaceNetInfo
from facenet2expnet.nets.face.weights import GENERATED, generated, load_into, read_weights

STAGES = ((3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3))
"""Channels in, channels out and number of convolutions of each stage; a 2x2 maximum pooling ends it."""

INFO = FaceNetInfo(
    name="vgg-face",
    input_px=224,
    mean_rgb=(129.1863, 104.7624, 93.5940),
    scale=1.0,
    taps={
        "pool1": (64, 112, 112),
        "pool2": (128, 56, 56),
        "pool3": (256, 28, 28),
        "pool4": (512, 14, 14),
        "pool5": (512, 7, 7),
        "fc6": (4096,),
        "fc7": (4096,),
    },
    embedding="fc7",
    default_tap="pool5",
    licence="CC-BY-NC-4.0 (research only)",
    source="https://www.robots.ox.ac.uk/~vgg/software/vgg_face/",
)


class VggFace(ChainFaceNet):
    """The 13 convolutions, fc6 and fc7 of VGG-16; taps are read after the ReLU.

    The classifier of 2,622 identities ("fc8" in the files) is left out.
    """

    info = INFO

    def __init__(self) -> None:
        super().__init__()
        for stage, (channels, width, count) in enumerate(STAGES, start=1):
            for index in range(1, count + 1):
                self.add_module(f"conv{stage}_{index}", nn.Conv2d(channels, width, 3, padding=1))
                channels = width
        self.fc6 = nn.Linear(512 * 7 * 7, 4096)
        self.fc7 = nn.Linear(4096, 4096)

    def step(self, name: str, features: Tensor) -> Tensor:
        """Compute tap `name` from the tap before it; dropout 0.5 before fc7."""
        if name.startswith("pool"):
            stage = int(name.removeprefix("pool"))
            for index in range(1, STAGES[stage - 1][2] + 1):
                features = functional.relu(self.get_submodule(f"conv{stage}_{index}")(features))
            return functional.max_pool2d(features, 2)
        if name == "fc6":
            return functional.relu(self.fc6(features.flatten(1)))
        return functional.relu(self.fc7(functional.dropout(features, 0.5, self.training)))


def converted(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Bring a VGG-Face file to our layer names; also return the colour order that goes with its own names.

    Known names: conv1_1 (vgg_face_dag, and Caffe's own) and conv_1_1 (from Torch), both also behind "features.",
    "classifier." or "fc.". Convolutions over the whole map in place of fc6 and fc7 are flattened.
    """
    ours = {re.sub(r"^(features|classifier|fc)\.|_(?=\d_)", "", key): value for key, value in state.items()}
    flat = {key: value.flatten(1) for key, value in ours.items() if key.startswith("fc") and value.ndim == 4}
    return ours | flat, "bgr" if any("conv_" in name for name in state) else "rgb"


def load(weights: Path | None, name: str = "vgg-face") -> VggFace:
    """Load VGG-Face, in training mode; `name` may end in the colour order of the file, as in vgg-face:bgr."""
    if str(weights) == GENERATED:
        return generated(VggFace)
    state, colour_by_names = converted(read_weights(weights, INFO))
    if len(state.get("fc8.bias", ())) == 1000:  # ImageNet's classes
        raise UserError(f"{weights}: expected VGG-Face, got a VGG-16 of ImageNet; use timm:vgg16")
    state = {key: value for key, value in state.items() if not key.startswith("fc8.")}
    net = load_into(VggFace, state, weights, "vgg-face")
    colour = name.partition(":")[2] or colour_by_names
    if colour == "bgr":
        first = net.get_parameter("conv1_1.weight")
        first.data = first.data.flip(1)
    reason = f"{name} asks" if ":" in name else "layer names say; vgg-face:rgb and vgg-face:bgr override"
    net.info = replace(INFO, notes=(f"The weights are taken for {colour.upper()}, as {reason}.",))
    return net
