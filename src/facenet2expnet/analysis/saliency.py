"""Where a network looks: integrated gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.analysis.inputs import AnalysisInput
from facenet2expnet.analysis.layers import SCORES, check_finite, crops_of, layer_shapes, mean_crop
from facenet2expnet.analysis.result import AnalysisResult
from facenet2expnet.errors import UserError
from facenet2expnet.report.figures import QUIET, new_figure, short, style

STEPS = 24
BATCH = 16
DATA_PX = 28
"""The averaged maps are saved as numbers at this size at most."""


def saliency(inputs: AnalysisInput, per_class: int = 20) -> AnalysisResult:
    """Where a network looks for each class: maps averaged over aligned faces, and maps of one image a class.

    Each map is of the score of the image's true class. It is divided by its sum before the average, so that every image
    has the same weight. The gradients start from the mean of all images given: they show what sets this face apart from
    the average face.

    Args:
        inputs: one network, with class scores.
        per_class: images of each class that are averaged, drawn at random if there are more.
    Raises:
        UserError: If the network has other classes, or a map is not finite.
    """
    model, pixels, labels, classes, crop_px = (
        inputs.net,
        inputs.pixels,
        inputs.labels,
        inputs.classes,
        inputs.crop_px,
    )
    if layer_shapes(model, crop_px).get(SCORES) != (len(classes),):
        raise UserError(f"expected a network with {len(classes)} class scores: {', '.join(classes)}")
    generator = np.random.default_rng(inputs.seed)
    drawn = [generator.permutation(np.flatnonzero(labels == n))[:per_class] for n in range(len(classes))]
    baseline = mean_crop(pixels, crop_px, model)
    edge = (pixels.shape[1] - crop_px) // 2
    crops = pixels[:, edge : edge + crop_px, edge : edge + crop_px]
    means, averaged, singles, maps_of_singles = [], [], [], []
    for number, rows in enumerate(map(np.sort, drawn)):
        maps = _maps(model, pixels[rows], number, baseline)
        means.append(crops[labels == number].mean(axis=0) / 255)
        averaged.append(maps.mean(axis=0))
        singles.append(crops[rows[0]] / 255)
        maps_of_singles.append(maps[0])
    summary = (
        f"Where the network looks for the score of the true class: integrated gradients from the mean face ({STEPS} "
        f"points), averaged over up to {per_class} images a class."
    )
    return AnalysisResult(
        "saliency",
        "Where the network looks",
        summary,
        _thirds(averaged, classes, [len(rows) for rows in drawn]),
        _figure(means, averaged, classes, "mean face"),
        _numbers(averaged, classes),
        more_figures={"pictures": _figure(singles, maps_of_singles, classes, "picture")},
    )


def integrated_gradients(model: nn.Module, crops: Tensor, target: int, baseline: Tensor) -> Tensor:
    """Integrated gradients of a class score along the straight line from a baseline to each crop (Gauss-Legendre).

    Args:
        model: a network with class scores.
        crops: (B, 3, H, W) in 0..255.
        target: the class number.
        baseline: (1, 3, H, W), where the line begins.
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


def _thirds(maps: Sequence[np.ndarray], classes: Sequence[str], counts: Sequence[int]) -> pd.DataFrame:
    """The share of each class's map in the upper, middle and lower third: brows and eyes, nose, mouth and chin."""
    rows = []
    for name, values, count in zip(classes, maps, counts, strict=True):
        parts = [float(part.sum()) for part in np.array_split(values, 3, axis=0)]
        rows.append((name, count, *(part / (sum(parts) or 1.0) for part in parts)))
    return pd.DataFrame(rows, columns=["class", "pictures", "upper_third", "middle_third", "lower_third"])


def _numbers(maps: Sequence[np.ndarray], classes: Sequence[str]) -> pd.DataFrame:
    """The maps in long form, reduced to `DATA_PX` a side by averaging; each sums to 1."""
    rows = []
    small = functional.adaptive_avg_pool2d(
        torch.from_numpy(np.stack(maps)), min(DATA_PX, maps[0].shape[-1])
    ).numpy()
    for name, values in zip(
        classes, small / np.maximum(small.sum(axis=(1, 2), keepdims=True), 1e-12), strict=True
    ):
        rows += [(name, *place, float(values[place])) for place in np.ndindex(*values.shape)]
    return pd.DataFrame(rows, columns=["class", "row", "column", "share"])


def _figure(
    faces: Sequence[np.ndarray], maps: Sequence[np.ndarray], classes: Sequence[str], label: str
) -> Figure:
    """A column a class: the face (0..1), and below it in grey with the map over it, blurred for the eye."""
    with style():
        figure = new_figure(1.2 * len(classes) + 0.6, 1.22 * 2 + 0.3)
        grid = figure.subplots(2, len(classes), squeeze=False)
        for (above, below), face, values, name in zip(grid.T, faces, maps, classes, strict=True):
            above.imshow(face, interpolation="bilinear")
            above.set_title(short(name, 14), fontsize=9, loc="center")
            grey = np.repeat(face.mean(axis=-1, keepdims=True), 3, axis=-1) * 0.75
            below.imshow(grey, interpolation="bilinear")
            blurred = gaussian_filter(values, values.shape[-1] / 40)
            strength = np.clip(blurred / max(float(np.quantile(blurred, 0.995)), 1e-12), 0, 1)
            # The stronger, the more opaque and the lighter.
            below.imshow(
                strength, cmap="inferno", vmin=0, vmax=1, alpha=0.85 * strength, interpolation="bilinear"
            )
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for axes, text in zip(grid[:, 0], [label, "integrated\ngradients"], strict=True):
            axes.set_ylabel(text.replace(" ", "\n"), fontsize=8.5, color=QUIET)
    return figure
