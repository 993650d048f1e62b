"""Augmentation: the paper's copies pixels, a seed repeats it, stronger changes stay in range."""

from __future__ import annotations

import torch
from torch import Tensor

from facenet2expnet.recipe import AugmentRecipe
from facenet2expnet.training.augment import Augment

STORED = torch.randint(0, 256, (6, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def windows(picture: Tensor) -> set[bytes]:
    """Every 16-pixel window of a picture."""
    cut = picture.unfold(1, 16, 1).unfold(2, 16, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3, 16, 16)
    return {window.numpy().tobytes() for window in cut}


def test_the_papers_augmentation_copies_windows_and_mirrors_half_of_them() -> None:
    torch.manual_seed(0)
    augment = Augment(AugmentRecipe(flip=0.5), 16)
    crops = torch.cat([augment(STORED) for _ in range(20)]).round().to(torch.uint8)
    assert crops.shape == (120, 3, 16, 16)
    mirrored = 0
    for number, crop in enumerate(crops):
        picture = STORED[number % 6]
        as_it_is = crop.numpy().tobytes() in windows(picture)
        assert as_it_is or crop.numpy().tobytes() in windows(picture.flip(2))
        mirrored += not as_it_is
    assert 40 < mirrored < 80
    assert len({crop.numpy().tobytes() for crop in crops}) > 60


def test_a_seed_repeats_the_crops() -> None:
    augment = Augment(AugmentRecipe(0.5, 10.0, 0.1, 0.2, 0.5, 0.5), 16)
    torch.manual_seed(3)
    first, second = augment(STORED), augment(STORED)
    torch.manual_seed(3)
    assert torch.equal(augment(STORED), first)
    assert not torch.equal(first, second)
    assert first.dtype == torch.float32
    assert 0 <= first.min() < first.max() <= 255
