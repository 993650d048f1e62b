"""mixup: what is blended, the loss against PyTorch's own, what the accuracy counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import tiny
from facenet2expnet import recipe as recipes
from facenet2expnet.training.augment import Augment
from facenet2expnet.training.classification import Classification
from facenet2expnet.training.teacher import TrainingPart


@pytest.fixture
def part() -> TrainingPart:
    pixels = np.random.default_rng(1).integers(0, 255, (12, 36, 36, 3), dtype=np.uint8)
    return TrainingPart(pixels, np.array([0] * 8 + [1] * 3 + [2]), 3, torch.device("cpu"))


class Scores(torch.nn.Module):
    """Remembers the crops; scores are made of them, so that a blend has other ones."""

    crops: Tensor

    def forward(self, crops: Tensor) -> Tensor:
        self.crops = crops
        return crops.mean(dim=(2, 3)) / 20


@pytest.mark.parametrize("settings", [[], ["scratch.label_smoothing=0.1", "scratch.balance=weights"]])
def test_the_loss_is_both_labels_in_the_shares_of_the_pictures(
    part: TrainingPart, settings: list[str]
) -> None:
    recipe = tiny.tiny_recipe("scratch.mixup=0.4", *settings).scratch
    still = Augment(recipes.AugmentRecipe(flip=0.0), 36)
    stage = Classification("scratch", recipe, Scores(), part, still, [])
    examples = torch.arange(12)
    torch.manual_seed(5)
    loss = stage.loss(examples)
    torch.manual_seed(5)
    crops = still(part.stored(examples))
    drawn = torch.distributions.Beta(0.4, 0.4).sample()
    share, partners = max(drawn, 1 - drawn), torch.randperm(12)
    assert 0.5 < share < 0.99
    blends = share * crops + (1 - share) * crops[partners]
    torch.testing.assert_close(stage.module.crops, blends)
    weights = stage.class_weights
    assert (weights is not None) == bool(settings)
    scores = blends.mean(dim=(2, 3)) / 20

    def mean_loss(targets: Tensor) -> Tensor:
        each = functional.cross_entropy(
            scores, targets, reduction="none", label_smoothing=recipe.label_smoothing
        )
        heavy = torch.ones(12) if weights is None else weights[targets]
        return (each * heavy).sum() / heavy.sum()

    first, second = mean_loss(part.targets), mean_loss(part.targets[partners])
    assert loss.item() == pytest.approx((share * first + (1 - share) * second).item(), rel=1e-5)
    right = (scores.argmax(1) == part.targets).float().mean().item()
    assert stage.epoch_metrics()["accuracy"] == pytest.approx(right)


def test_without_mixup_nothing_more_is_drawn(part: TrainingPart) -> None:
    still = Augment(recipes.AugmentRecipe(flip=0.0), 36)
    stage = Classification("scratch", tiny.tiny_recipe().scratch, Scores(), part, still, [])
    torch.manual_seed(5)
    stage.loss(torch.arange(12))
    after = torch.rand(1)
    torch.manual_seed(5)
    crops = still(part.stored(torch.arange(12)))
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(stage.module.crops, crops)
