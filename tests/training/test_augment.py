"""Augmentation: the paper's is copied pixels, seeds repeat it, stronger ones stay in range."""

from __future__ import annotations

import torch

from facenet2expnet.recipe import AugmentRecipe
from facenet2expnet.training.augment import Augment, centre_crop

STORED = torch.randint(0, 256, (6, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def windows(picture: torch.Tensor) -> set[bytes]:
    """Every 16-pixel window of a picture and of its mirror image."""
    cut = [
        p.unfold(1, 16, 1).unfold(2, 16, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3, 16, 16)
        for p in (picture, picture.flip(2))
    ]
    return {window.numpy().tobytes() for window in torch.cat(cut)}


def test_the_papers_augmentation_copies_pixels() -> None:
    torch.manual_seed(0)
    crops = Augment(AugmentRecipe(flip=0.5), 16)(STORED).round().to(torch.uint8)
    assert crops.shape == (6, 3, 16, 16)
    assert all(
        crop.numpy().tobytes() in windows(picture) for crop, picture in zip(crops, STORED, strict=True)
    )


def test_crops_differ_and_a_seed_repeats_them() -> None:
    augment = Augment(AugmentRecipe(0.5, 10.0, 0.1, 0.2, 0.5, 0.5), 16)
    torch.manual_seed(3)
    first = augment(STORED)
    second = augment(STORED)
    torch.manual_seed(3)
    assert torch.equal(augment(STORED), first)
    assert not torch.equal(first, second)
    assert first.min() >= 0
    assert first.max() <= 255
    assert first.dtype == torch.float32


def test_centre_crop_is_the_middle() -> None:
    assert torch.equal(centre_crop(STORED, 16), STORED[..., 2:18, 2:18].float())
    assert torch.equal(centre_crop(STORED, 20), STORED.float())
