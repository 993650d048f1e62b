"""Small networks and images: a bright patch shows the class, the colour above it the subject."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.analysis.inputs import AnalysisInput
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


def make_inputs(nets: dict[str, nn.Module] | None = None) -> AnalysisInput:
    """72 images: 3 classes x 4 subjects x 6 sequences of one frame."""
    generator = np.random.default_rng(0)
    labels = np.tile(np.arange(3), 24)
    people = np.repeat(np.arange(4), 18)
    pixels = generator.integers(90, 130, (72, STORED_PX, STORED_PX, 3)).astype(np.int64)
    for row, (label, subject) in enumerate(zip(labels, people, strict=True)):
        top, left = ((12, 5), (12, 22), (24, 14))[label]
        pixels[row, top : top + 8, left : left + 8] += 100
        pixels[row, :6, :, subject % 3] += 40 * (1 + subject // 3)
    subjects = np.array([f"S{subject}" for subject in people], dtype=object)
    sequences = np.array([str(row % 6) for row in range(72)], dtype=object)
    images = pixels.clip(0, 255).astype(np.uint8)
    return AnalysisInput(nets or {}, images, labels, CLASSES, CROP_PX, subjects, sequences, tap="late")


def expression_net(seed: int = 0) -> ExpressionClassifier:
    torch.manual_seed(seed)
    net = ExpNet(3, input_px=CROP_PX, width=1 / 16, hidden=16, bridge_chw=(8, 6, 6), dropout=0.0)
    return ExpressionClassifier(net, (127.5, 127.5, 127.5), 64.0)


def face_classifier(seed: int = 0) -> FaceClassifier:
    torch.manual_seed(seed)
    return FaceClassifier(TinyFaceNet(), 3, head_norm=False, head_dropout=0.0)


def trained(model: nn.Module, inputs: AnalysisInput, steps: int = 40) -> nn.Module:
    """The model after a short training on all images, which learns the classes."""
    edge = (STORED_PX - CROP_PX) // 2
    window = slice(edge, edge + CROP_PX)
    crops = torch.from_numpy(inputs.pixels[:, window, window]).permute(0, 3, 1, 2).float()
    targets = torch.from_numpy(inputs.labels)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    model.train()
    for _ in range(steps):
        optimiser.zero_grad()
        functional.cross_entropy(model(crops), targets).backward()
        optimiser.step()
    return model.eval()
