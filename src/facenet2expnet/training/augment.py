"""Random windows, flips and more on whole batches, on the device; the same crop goes to both nets."""

from __future__ import annotations

import kornia.augmentation as kornia
import torch
from torch import Tensor, nn

from facenet2expnet.recipe import AugmentRecipe


class Augment(nn.Module):
    """Stored faces to training crops, drawn anew for every picture from PyTorch's global random state.

    With flips alone this is the paper's augmentation, a random window and a horizontal flip (FN2EN, IV-A); pixels
    are then copied, never interpolated.

    Args:
        recipe: how much of what.
        crop_px: side of the window.
    """

    def __init__(self, recipe: AugmentRecipe, crop_px: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.crop_px = crop_px
        steps: list[nn.Module] = []
        if recipe.rotation_deg or recipe.zoom:
            zoom = (1 - recipe.zoom, 1 + recipe.zoom)
            steps.append(kornia.RandomAffine(recipe.rotation_deg, scale=zoom, padding_mode="border", p=1.0))
        if recipe.brightness:
            steps.append(kornia.ColorJitter(recipe.brightness, recipe.brightness, 0.0, 0.0, p=1.0))
        if recipe.blur:
            steps.append(kornia.RandomGaussianBlur((3, 3), (0.3, 1.5), p=recipe.blur))
        steps.append(kornia.RandomCrop((crop_px, crop_px), cropping_mode="slice"))
        if recipe.flip:
            steps.append(kornia.RandomHorizontalFlip(p=recipe.flip))
        if recipe.erasing:
            steps.append(kornia.RandomErasing(scale=(0.02, 0.2), value=0.5, p=recipe.erasing))
        self.steps = nn.Sequential(*steps)

    @torch.no_grad()
    def forward(self, stored: Tensor) -> Tensor:
        """Stored faces (B, 3, S, S) uint8 -> crops (B, 3, crop_px, crop_px) float in 0..255."""
        crops: Tensor = self.steps(stored.float() / 255)
        return (crops * 255).clamp_(0, 255)
