"""VGG-Face: the VGG-16 of Parkhi et al., the face net of the paper.

Source: O. M. Parkhi, A. Vedaldi, A. Zisserman, Deep Face Recognition, BMVC 2015,
https://www.robots.ox.ac.uk/~vgg/software/vgg_face/; FN2EN, section IV.

The same weights go round in two colour orders. vgg_face_dag.pth came from MatConvNet, whose nets take RGB (its
mean, 129.2, 104.8, 93.6, is in that order, and its converter's own evaluation feeds RGB). The files that were
converted from Caffe or Torch take BGR. Which one a file is, is told by its names; `vgg-face:rgb` and
`vgg-face:bgr` say it where the names mislead. A BGR file's first convolution is turned round when it is read, so
the net itself always takes RGB.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.base import ChainFaceNet, FaceNetInfo
from facenet2expnet.nets.face.weights import GENERATED, generated, load_into, read_state_dict

STAGES = ((3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3))
"""Channels in, channels out, convolutions of each stage; a 2x2 maximum pooling ends it."""

HEADS = (2622, 2624)
"""Rows of fc8 in the files of VGG-Face: its identities; some files have two more."""
IMAGENET_CLASSES = 1000

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
    },
    embedding="fc7",
    default_tap="pool5",
    licence="CC-BY-NC-4.0 (research only)",
    source="https://www.robots.ox.ac.uk/~vgg/software/vgg_face/",
)


class VggFace(ChainFaceNet):
    """VGG-16 with its 13 convolutions, fc6 and fc7, which are read after their ReLU.

    The classifier over 2,622 identities ("fc8" in the files) is left out.
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
        """From the output of the tap before `name` to that of `name`; dropout 0.5 before fc7."""
        if name.startswith("pool"):
            stage = int(name.removeprefix("pool"))
            for index in range(1, STAGES[stage - 1][2] + 1):
                features = functional.relu(self.get_submodule(f"conv{stage}_{index}")(features))
            return functional.max_pool2d(features, 2)
        if name == "fc6":
            return functional.relu(self.fc6(features.flatten(1)))
        return functional.relu(self.fc7(functional.dropout(features, 0.5, self.training)))


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
    "classifier." or "fc.", and torchvision's features.N and classifier.N. Where fc6 and fc7 are kept as convolutions
    over the whole map, they are laid flat.

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
        fully_connected = layer in ("fc6", "fc7") and value.ndim == 4
        ours[f"{layer}.{kind}"] = value.flatten(1) if fully_connected else value
    return ours, colour


def load(weights: Path | None = None, name: str = "vgg-face") -> VggFace:
    """VGG-Face from a weights file, in training mode.

    Args:
        weights: a .pth, .pt or .safetensors file, or "generated".
        name: "vgg-face", or with the colour order that the weights expect: "vgg-face:rgb", "vgg-face:bgr".
    Raises:
        UserError: If no file is given, or it is not VGG-Face's; ImageNet's VGG-16 has the same names and shapes,
            and is told by its 1,000 classes.
    """
    if weights is None:
        raise UserError(
            "vgg-face brings no weights: give the path of vgg_face_dag.pth or of a file converted from Caffe, "
            "hf:owner/name/file, or https://…#sha256=HEX; ask for vgg-face:bgr where a file from Caffe has kept its "
            "names (conv1_1)"
        )
    if str(weights) == GENERATED:
        return generated(VggFace)
    state, by_names = renamed(read_state_dict(weights))
    head = state.get("fc8.weight")
    classes = head.shape[0] if head is not None and head.ndim else None
    if classes == IMAGENET_CLASSES:
        raise UserError(
            f"{weights}: expected the weights of vgg-face, but these look like those of ImageNet's VGG-16 "
            f"({classes:,} classes); timm:vgg16 is the net that brings these"
        )
    said = name.partition(":")[2]
    colour = said or by_names
    if colour == "bgr" and state.get("conv1_1.weight", torch.empty(0)).ndim == 4:
        state["conv1_1.weight"] = state["conv1_1.weight"].flip(1)
    state = {key: value for key, value in state.items() if not key.startswith("fc8.")}
    with torch.device("meta"):
        net = VggFace()
    load_into(net, state, str(weights), "vgg-face")
    net.info = replace(INFO, notes=_notes(said, colour, classes))
    return net


def _notes(said: str, colour: str, classes: int | None) -> tuple[str, ...]:
    """What was taken for granted: the colour order of the file, and that its head may go."""
    other = "rgb" if colour == "bgr" else "bgr"
    order = (
        f"The weights are taken for {colour.upper()}, as vgg-face:{colour} says."
        if said
        else f"The weights are taken for {colour.upper()} by the names of their layers; ask for vgg-face:{other} if "
        f"they expect {other.upper()}."
    )
    if classes is None or classes in HEADS:
        return (order,)
    return (
        order,
        f"The file's head has {classes:,} classes and not VGG-Face's {HEADS[0]:,}: fine-tuned for something else, or "
        "no VGG-Face at all. The head was left out.",
    )
