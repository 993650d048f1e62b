"""What the tests of the stages share: a tiny training set, the tiny teacher, a training context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tiny
from facenet2expnet.nets.classifier import ExpressionClassifier, FaceClassifier
from facenet2expnet.recipe import AugmentRecipe, LossTerm
from facenet2expnet.training import stages
from facenet2expnet.training.augment import Augment
from facenet2expnet.training.distil import Teaching
from facenet2expnet.training.loop import EpochRecord
from facenet2expnet.training.losses import FeatureLoss
from facenet2expnet.training.stages import TrainingContext
from facenet2expnet.training.statistics import measure_features
from facenet2expnet.training.teacher import CachedViews, TrainingSet, tapped_features

CPU = torch.device("cpu")
STILL = Augment(AugmentRecipe(flip=0.0), 36)
"""The whole stored face, unchanged: what a stage computes can be recomputed from the stored pixels."""


def features(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Give Gaussian features whose channels differ in mean and spread, as a face net's do."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    scale = torch.linspace(0.5, 3, shape[1], dtype=torch.float64).view(1, -1, *[1] * (len(shape) - 2))
    return (noise * scale + 2 * scale).to(dtype)


def faces(
    targets: Sequence[int] = (0, 1, 2) * 8,
    *,
    seed: int = 1,
    validation: TrainingSet | None = None,
    device: torch.device = CPU,
) -> TrainingSet:
    """Give pictures of 36 pixels whose class, one of three, shows in their mean colour."""
    labels = np.array(targets)
    pixels = np.random.default_rng(seed).integers(0, 90, (len(labels), 36, 36, 3), dtype=np.uint8)
    pixels[np.arange(len(labels)), ..., labels] += 120
    return TrainingSet(pixels, np.arange(len(labels)), labels, 3, device, validation)


def teacher() -> FaceClassifier:
    """Give the tiny face net with a head, frozen, the same in every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = FaceClassifier(tiny.TinyFaceNet(), 3, head_norm=True, head_dropout=0.5)
    return net.eval().requires_grad_(False)


def student(data: TrainingSet) -> ExpressionClassifier:
    """Give a tiny expression net for whole stored faces, without dropout, the same in every call."""
    recipe = tiny.tiny_recipe("crop.crop_px=36", "expnet.dropout=0")
    torch.manual_seed(3)
    return stages._expression_classifier(recipe, data, tiny.TinyFaceNet(), batch_norm=False)


def teaching(data: TrainingSet, *losses: str, views: CachedViews | None = None) -> Teaching:
    """Give the tiny teacher's layer "late" with the sum of the losses of these names."""
    statistics = measure_features(tapped_features(teacher(), data, "late", 36))
    terms = [LossTerm(loss) for loss in losses]  # type: ignore[arg-type]
    return Teaching(teacher(), "late", views, FeatureLoss(terms, statistics) if losses else None)


def context(*settings: str, records: list[EpochRecord] | None = None, **others: Any) -> TrainingContext:
    """Give a context of the tiny recipe with these settings; records of the epochs go to the list."""
    on_epoch = None if records is None else records.append
    return TrainingContext(tiny.tiny_recipe(*settings), **{"seed": 0, "device": CPU, "on_epoch": on_epoch} | others)
