"""VGG-Face: the VGG-16 of Parkhi et al., the face net of the paper.

Source: O. M. Parkhi, A. Vedaldi, A. Zisserman, Deep Face Recognition, BMVC 2015,
https://www.robots.ox.ac.uk/~vgg/software/vgg_face/; FN2EN, section IV.

The same weights go round in two colour orders. vgg_face_dag.pth came from MatConvNet, whose nets take RGB (its
mean, 129.2, 104.8, 93.6, is in that order, and the converter's own evaluation feeds RGB). The files that were
converted from Caffe or Torch take BGR. Which one a file is, is told by its names; `vgg-face:rgb` and
`vgg-face:bgr` say it where the names mislead.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.base import ChainFaceNet, FaceNetInfo
from facenet2expnet.nets.face.weights import GENERATED, generate, load_into, read_state_dict

IDENTITIES = 2622
STAGES = ((3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3))
"""Channels in, channels out, convolutions of each stage; a 2x2 maximum pooling ends it."""

INFO = FaceNetInfo(
    name="vgg-face",
    input_px=224,
    mean_rgb=(129.1863, 104.7624, 93.5940),
    scale=1.0,
    colour="rgb",
    taps={
        "pool1": (64, 112, 112),
        "pool2": (128, 56, 56),
        "pool3": (256, 28, 28),
        "pool4": (512, 14, 14),
        "pool5": (512, 7, 7),
        "fc6": (4096,),
        "fc7": (4096,),
        "fc8": (IDENTITIES,),
    },
    embedding="fc7",
    default_tap="pool5",
    licence="CC-BY-NC-4.0 (research only)",
    source="https://www.robots.ox.ac.uk/~vgg/software/vgg_face/",
)


class VggFace(ChainFaceNet):
    """VGG-16 with 13 convolutions and 3 fully connected layers. fc6 and fc7 are read after their ReLU.

    Args:
        identities: outputs of fc8; 0 leaves fc8 out.
        colour: the order that the weights expect, "rgb" or "bgr".
    """

    def __init__(self, identities: int = IDENTITIES, colour: str = "rgb") -> None:
        super().__init__()
        taps = {name: shape for name, shape in INFO.taps.items() if name != "fc8"}
        if identities:
            taps["fc8"] = (identities,)
        self.info = dataclasses.replace(INFO, taps=taps, colour=colour)
        for stage, (channels, width, count) in enumerate(STAGES, start=1):
            for index in range(1, count + 1):
                self.add_module(f"conv{stage}_{index}", nn.Conv2d(channels, width, 3, padding=1))
                channels = width
        self.fc6 = nn.Linear(512 * 7 * 7, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        if identities:
            self.fc8 = nn.Linear(4096, identities)

    def step(self, name: str, features: Tensor) -> Tensor:
        """From the output of the tap before `name` to that of `name`; dropout 0.5 before fc7 and fc8."""
        if name.startswith("pool"):
            stage = int(name.removeprefix("pool"))
            for index in range(1, STAGES[stage - 1][2] + 1):
                features = functional.relu(self.get_submodule(f"conv{stage}_{index}")(features))
            return functional.max_pool2d(features, 2)
        if name == "fc6":
            return functional.relu(self.fc6(features.flatten(1)))
        features = functional.dropout(features, 0.5, self.training)
        if name == "fc7":
            return functional.relu(self.fc7(features))
        logits: Tensor = self.fc8(features)
        return logits


def _torchvision_names() -> dict[str, str]:
    """torchvision's name -> ours, for the convolutions (features.N) and both numberings of the classifier."""
    names, position = {}, 0
    for stage, (_, _, count) in enumerate(STAGES, start=1):
        for index in range(1, count + 1):
            names[f"features.{position}"] = f"conv{stage}_{index}"
            position += 2
        position += 1
    for layer, (plain, flattened) in {"fc6": (0, 1), "fc7": (3, 4), "fc8": (6, 7)}.items():
        names[f"classifier.{plain}"] = names[f"classifier.{flattened}"] = layer
    return names


def renamed(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Bring the names that VGG-Face goes round under to ours.

    Known are conv1_1 (vgg_face_dag, and Caffe's own), conv_1_1 (from Torch), both also behind "features.",
    "classifier." or "fc.", and torchvision's features.N and classifier.N.

    Returns:
        The weights under our names, and the colour order that goes with the names they had.
    """
    colour = "rgb" if any(re.search(r"(^|\.)conv\d_\d\.", name) for name in state) else "bgr"
    torchvision = _torchvision_names()
    ours = {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        if layer in torchvision:
            layer = torchvision[layer]
        elif matched := re.fullmatch(r"(?:(?:features|classifier|fc)\.)?(?:conv_?(\d_\d)|(fc\d))", layer):
            layer = f"conv{matched[1]}" if matched[1] else matched[2]
        ours[f"{layer}.{kind}"] = value
    return ours, colour


def load(weights: Path | None = None, name: str = "vgg-face") -> VggFace:
    """VGG-Face from a weights file, in training mode.

    Args:
        weights: a .pth, .pt or .safetensors file, or "generated".
        name: "vgg-face", or with the colour order that the weights expect: "vgg-face:rgb", "vgg-face:bgr".
    Raises:
        UserError: If no file is given, or it is not VGG-Face's.
    """
    variant = name.partition(":")[2]
    if variant not in ("", "rgb", "bgr"):
        raise UserError(f"'{name}': expected vgg-face, vgg-face:rgb or vgg-face:bgr")
    if weights is None:
        raise UserError(
            "vgg-face brings no weights: give the path of vgg_face_dag.pth or of a file converted from Caffe, "
            "hf:owner/name/file, or https://…#sha256=HEX"
        )
    if str(weights) == GENERATED:
        with torch.device("meta"):
            net = VggFace(colour=variant or "rgb")
        net.to_empty(device="cpu")
        generate(net)
        return net
    state, colour = renamed(read_state_dict(weights))
    last = state.get("fc8.weight")
    with torch.device("meta"):
        net = VggFace(0 if last is None else last.shape[0], variant or colour)
    load_into(net, state, str(weights), "vgg-face")
    return net
