"""Where a network looks: integrated gradients."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.analysis.inputs import AnalysisInput
from facenet2expnet.analysis.layers import SCORES, check_finite, crops_of, layer_shapes, mean_crop
from facenet2expnet.analysis.result import AnalysisResult, image_grid
from facenet2expnet.errors import UserError

STEPS = 24
BATCH = 16
DATA_PX = 28  # the averaged maps are saved as numbers at this size at most


def saliency(inputs: AnalysisInput, per_class: int = 20) -> AnalysisResult:
    """Where a network looks for each class: maps averaged over aligned faces.

    Each map is of the score of the image's true class. It is divided by its sum before the average, so that every image
    has the same weight. The gradients start from the mean of all images given: they show what sets this face apart from
    the average face.

    Args:
        inputs: one network, with class scores.
        per_class: images of each class that are averaged, drawn at random if there are more.
    Raises:
        UserError: If the network has other classes, or a map is not finite.
    """
    model, pixels, classes, crop_px = inputs.net, inputs.pixels, inputs.classes, inputs.crop_px
    if layer_shapes(model, crop_px).get(SCORES) != (len(classes),):
        raise UserError(f"expected a network with {len(classes)} class scores: {', '.join(classes)}")
    baseline, generator = mean_crop(pixels, crop_px, model), np.random.default_rng(inputs.seed)
    rows, numbers, faces, overlays = [], [], [], []
    for number, name in enumerate(classes):
        of_class = np.flatnonzero(inputs.labels == number)
        drawn = np.sort(generator.permutation(of_class)[:per_class])
        averaged = _maps(model, pixels[drawn], number, baseline).mean(axis=0)
        thirds = np.array([part.sum() for part in np.array_split(averaged, 3, axis=0)])
        rows.append((name, len(drawn), *(thirds / max(thirds.sum(), 1e-12))))
        maps = torch.from_numpy(averaged)[None]
        small = functional.adaptive_avg_pool2d(maps, min(DATA_PX, crop_px)).numpy()[0]
        shares = small / max(small.sum(), 1e-12)
        numbers += [(name, *place, share) for place, share in np.ndenumerate(shares)]
        face = mean_crop(pixels[of_class], crop_px, model)[0].permute(1, 2, 0).cpu().numpy() / 255
        faces.append((face, name, ""))
        overlays.append((_overlay(face, averaged), "", ""))
    table = pd.DataFrame(rows, columns=["class", "pictures", "upper_third", "middle_third", "lower_third"])
    data = pd.DataFrame(numbers, columns=["class", "row", "column", "share"])
    summary = (
        f"Where the network looks for the score of the true class: integrated gradients from the mean face ({STEPS} "
        f"points), averaged over up to {per_class} images a class. The table has the shares of the face's thirds: "
        "brows and eyes, nose, mouth and chin."
    )
    figure = image_grid([faces, overlays], ["mean face", "mean gradients"])
    return AnalysisResult("saliency", "Where the network looks", summary, table, figure, data)


def integrated_gradients(model: nn.Module, crops: Tensor, target: int, baseline: Tensor) -> Tensor:
    """Integrated gradients of a class score along the straight line from a baseline to each crop (Gauss-Legendre).

    Args:
        model: a network with class scores.
        crops: (B, 3, H, W) in 0..255.
        target: the class number.
        baseline: (1, 3, H, W).
    Returns:
        (B, 3, H, W); the sum for a crop is about the difference of the scores at both ends.
    Source: Sundararajan et al., arXiv 1703.01365.
    """
    total = torch.zeros_like(crops)
    for point, weight in zip(*np.polynomial.legendre.leggauss(STEPS), strict=True):
        between = (baseline + (1 + point) / 2 * (crops - baseline)).requires_grad_(True)
        total += weight / 2 * torch.autograd.grad(model(between)[:, target].sum(), between)[0]
    return (crops - baseline) * total


def _maps(model: nn.Module, pixels: np.ndarray, target: int, baseline: Tensor) -> np.ndarray:
    """(N, crop_px, crop_px) maps that sum to 1 each."""
    parts = []
    for first in range(0, len(pixels), BATCH):
        crops = crops_of(pixels[first : first + BATCH], baseline.shape[-1], model)
        sizes = integrated_gradients(model, crops, target, baseline).abs().sum(dim=1)
        check_finite(sizes, "the gradient of the class score")
        parts.append((sizes / sizes.sum(dim=(1, 2), keepdim=True).clamp(min=1e-12)).cpu().numpy())
    return np.concatenate(parts)


def _overlay(face: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The face (0..1) in grey with the map over it, blurred for the eye: the stronger, the lighter and more opaque."""
    blurred = gaussian_filter(values, values.shape[-1] / 40)
    strength = np.clip(blurred / max(float(np.quantile(blurred, 0.995)), 1e-12), 0, 1)[..., None]
    colours = colormaps["inferno"](strength[..., 0])[..., :3]
    grey, alpha = face.mean(axis=-1, keepdims=True) * 0.75, 0.85 * strength
    overlaid: np.ndarray = grey * (1 - alpha) + colours * alpha
    return overlaid
