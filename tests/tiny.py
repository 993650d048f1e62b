"""A face net and a set of faces so small that a whole run takes a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from facenet2expnet import recipes
from facenet2expnet.crop import CropContract
from facenet2expnet.nets import face
from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.nets.face import FaceNet, FaceNetInfo
from facenet2expnet.predict.model_folder import Model
from facenet2expnet.recipe import Recipe

CLASSES = ("anger", "happiness", "surprise")


class TinyFaceNet(FaceNet):
    """Two convolutions with weights from a fixed seed."""

    info = FaceNetInfo(
        name="tiny",
        input_px=32,
        mean_rgb=(127.5, 127.5, 127.5),
        scale=64.0,
        colour="rgb",
        taps={"early": (8, 16, 16), "late": (16, 8, 8), "pooled": (16,)},
        embedding="pooled",
        default_tap="late",
        licence="none needed",
        source="random numbers",
    )

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.early = nn.Conv2d(3, 8, 3, 2, 1)
            self.late = nn.Conv2d(8, 16, 3, 2, 1)

    def features(self, inputs: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        early = self.early(inputs).relu()
        late = self.late(early).relu()
        found = {"early": early, "late": late, "pooled": late.mean(dim=(2, 3))}
        return {name: found[name] for name in taps}


class _Entry:
    name = "tiny"

    @staticmethod
    def load() -> object:
        return lambda path: TinyFaceNet()


def register_tiny() -> None:
    """Make `face.load("tiny")` work, as a third party's entry point would."""
    face.entry_points = lambda group: [_Entry()]  # type: ignore[assignment]


def tiny_model() -> Model:
    """An expression net of three classes with fixed random weights, for faces of 40 px."""
    contract = CropContract(stored_px=40, crop_px=32)
    torch.manual_seed(0)
    net = ExpNet(3, input_px=32, bridge_chw=(8, 2, 2), width=0.1, hidden=8)
    net.bridge.set_affine(torch.rand(8, 2, 2), torch.rand(8, 2, 2) + 1)
    module = ExpressionClassifier(net, contract.mean, contract.scale).eval()
    return Model(module, CLASSES, contract, {"method": "fn2en"})


@torch.no_grad()
def sure_model() -> Model:
    """`tiny_model` with scores as far apart as those of a trained net: each class is the answer for some faces."""
    model = tiny_model()
    crops = torch.from_numpy(faces(60)[:, 4:36, 4:36]).permute(0, 3, 1, 2).float()
    hidden = model.module.get_submodule("net.head.fc6")
    nn.init.kaiming_normal_(hidden.weight)
    layer = model.module.get_submodule("net.head.scores")
    scores = model.module(crops)
    layer.bias.sub_(scores.mean(0))
    for parameter in (layer.weight, layer.bias):
        parameter.mul_(4 / scores.std(0).mean())
    return model


def faces(count: int) -> np.ndarray:
    """Stored faces (N, 40, 40, 3) uint8: noise of many colours and contrasts."""
    rng = np.random.default_rng(1)
    colours, contrasts = rng.integers(0, 200, (count, 1, 1, 3)), rng.uniform(0.1, 1, (count, 1, 1, 1))
    return (rng.integers(0, 256, (count, 40, 40, 3)) * contrasts + colours).clip(0, 255).astype(np.uint8)


def tiny_recipe(*settings: str) -> Recipe:
    """Both stages with the tiny face net, two epochs a stage."""
    names = ("fine_tune", "stage1", "stage2", "scratch")
    short = [f"{name}.epochs=2" for name in names] + [f"{name}.warmup_epochs=0" for name in names]
    small = ["crop.stored_px=36", "crop.crop_px=32", "face_net.name=tiny", "face_net.tap=late"]
    small += ["expnet.width=0.1", "expnet.hidden=16", "stage1.cached_views=2", "augment.erasing=0.2"]
    plain = ["expnet.blocks=plain", "expnet.pool_to_tap=false", "expnet.start=none", "stage1.mixed_views=0.0"]
    plain += ["stage2.soft_labels=0.0", "stage2.temperature=4.0", "stage2.lr_factor_pretrained=0.5"]
    plain += ["fine_tune.lr_factor_pretrained=0.05", "precision=32-true"]
    batches = [f"{name}.batch_size=8" for name in names]
    return recipes.override(recipes.preset("quick"), [*short, *small, *plain, *batches, *settings])


def write_faces(folder: Path, *, each: int = 8, classes: Sequence[str] = CLASSES) -> Path:
    """A folder of class folders; a class shows in the mean colour of its pictures."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for picture in range(each):
            pixels = rng.integers(0, 90, (40, 40, 3), dtype=np.uint8)
            pixels[..., number % 3] += 120
            Image.fromarray(pixels).save(folder / name / f"{picture:02}.png")
    return folder
