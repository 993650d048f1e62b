"""Small networks and pictures: three classes, told apart by where a bright patch stands; four subjects by colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.nets.classifier import ExpressionClassifier, FaceClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.nets.face.base import ChainFaceNet, FaceNetInfo

CLASSES = ("left", "right", "below")
CROP_PX = 32
STORED_PX = 36


class TinyFaceNet(ChainFaceNet):
    """Two convolutions and a pooling, in the form of every face net."""

    info = FaceNetInfo(
        name="tiny",
        input_px=24,
        mean_rgb=(127.5, 127.5, 127.5),
        scale=64.0,
        colour="rgb",
        taps={"early": (6, 12, 12), "late": (8, 6, 6), "pooled": (8,)},
        embedding="pooled",
        default_tap="late",
        licence="none",
        source="a test",
    )

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.second = nn.Conv2d(6, 8, 3, stride=2, padding=1)

    def step(self, name: str, features: Tensor) -> Tensor:
        if name == "pooled":
            return features.mean(dim=(2, 3))
        return functional.relu((self.first if name == "early" else self.second)(features))


@dataclass(frozen=True)
class Faces:
    pixels: np.ndarray
    labels: np.ndarray
    subjects: np.ndarray
    sequences: np.ndarray


def make_faces() -> Faces:
    """72 pictures: 3 classes x 4 subjects x 6 sequences of one frame."""
    generator = np.random.default_rng(0)
    labels = np.tile(np.arange(3), 24)
    people = np.repeat(np.arange(4), 18)
    pixels = generator.integers(90, 130, (72, STORED_PX, STORED_PX, 3)).astype(np.int64)
    for row, (label, person) in enumerate(zip(labels, people, strict=True)):
        top, left = ((12, 5), (12, 22), (24, 14))[label]
        pixels[row, top : top + 8, left : left + 8] += 100
        pixels[row, :6, :, person % 3] += 40 * (1 + person // 3)
    subjects = np.array([f"S{person}" for person in people], dtype=object)
    sequences = np.array([str(row % 6) for row in range(72)], dtype=object)
    return Faces(pixels.clip(0, 255).astype(np.uint8), labels, subjects, sequences)


def expression_net(seed: int = 0) -> ExpressionClassifier:
    torch.manual_seed(seed)
    net = ExpNet(3, input_px=CROP_PX, width=1 / 16, hidden=16, bridge_chw=(8, 6, 6), dropout=0.0)
    return ExpressionClassifier(net, (127.5, 127.5, 127.5), 64.0)


def face_classifier(seed: int = 0) -> FaceClassifier:
    torch.manual_seed(seed)
    return FaceClassifier(TinyFaceNet(), 3, head_norm=False, head_dropout=0.0)


def trained(model: nn.Module, faces: Faces, steps: int = 40) -> nn.Module:
    """The model after a short training on all the faces; it tells the classes apart afterwards."""
    edge = (STORED_PX - CROP_PX) // 2
    cut = slice(edge, edge + CROP_PX)
    crops = torch.from_numpy(faces.pixels[:, cut, cut]).permute(0, 3, 1, 2).float()
    targets = torch.from_numpy(faces.labels)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    model.train()
    for _ in range(steps):
        optimiser.zero_grad()
        functional.cross_entropy(model(crops), targets).backward()
        optimiser.step()
    return model.eval()
