"""Where a network looks: Grad-CAM and integrated gradients, through Captum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.analysis.layers import (
    check_labels,
    check_pixels,
    check_spatial,
    class_count,
    crops_of,
    device_of,
    evaluating,
    layer_shapes,
    probed,
    title,
)
from facenet2expnet.analysis.result import AnalysisResult
from facenet2expnet.errors import UserError
from facenet2expnet.report.figures import QUIET, new_figure, short, style

INSTALL = 'pip install "facenet2expnet[analysis]"'
WITHOUT = f"saliency was left out: it needs captum; {INSTALL}"
METHODS = ("Grad-CAM", "integrated gradients")
STEPS = 24
BATCH = 16
SMALLEST_MAP = 6
DATA_PX = 28
"""The averaged maps are saved as numbers at this size at most."""


def default_layer(model: nn.Module, crop_px: int) -> str:
    """The deepest layer with maps of 6 x 6 or more; smaller ones say little of place."""
    maps = {name: shape for name, shape in layer_shapes(model, crop_px).items() if len(shape) == 3}
    if not maps:
        raise UserError(f"{title(model)} has no layer with maps, which Grad-CAM needs")
    large = [name for name, shape in maps.items() if min(shape[1:]) >= SMALLEST_MAP]
    return (large or list(maps))[-1]


def grad_cam(model: nn.Module, crops: Tensor, targets: Tensor, layer: str) -> Tensor:
    """Grad-CAM maps of a layer, enlarged to the crop, zero where the layer speaks against the class.

    Args:
        model: a network with class scores.
        crops: (B, 3, H, W) in 0..255.
        targets: (B,) class numbers.
        layer: with maps.
    Returns:
        (B, H, W), zero or more.
    Source: Selvaraju et al., arXiv 1610.02391; captum.attr.LayerGradCam.
    """
    attr = _captum()
    twin, module = probed(model, layer)
    # Captum hooks the layer's input or output in place of a leaf, so the crops must ask for gradients themselves.
    maps = attr.LayerGradCam(twin, module).attribute(
        crops.detach().requires_grad_(True), target=targets, relu_attributions=True
    )
    enlarged = functional.interpolate(
        maps.detach(), size=crops.shape[-2:], mode="bilinear", align_corners=False
    )
    return enlarged[:, 0]


def integrated_gradients(
    model: nn.Module, crops: Tensor, targets: Tensor, baseline: Tensor, steps: int = STEPS
) -> tuple[Tensor, Tensor]:
    """Integrated gradients of class scores along the straight way from a baseline to each crop.

    Args:
        model: a network with class scores.
        crops: (B, 3, H, W) in 0..255.
        targets: (B,) class numbers.
        baseline: (1, 3, H, W), where the way begins.
        steps: points on the way (Gauss-Legendre).
    Returns:
        (B, H, W) the sum over colours of the attributions' sizes; (B,) how far the attributions' sum is from the
        difference of the scores, relative to the larger of 1 and that difference.
    Source: Sundararajan et al., arXiv 1703.01365; captum.attr.IntegratedGradients.
    """
    attr = _captum()
    method = attr.IntegratedGradients(model)
    found, gap = method.attribute(
        crops,
        baselines=baseline,
        target=targets,
        n_steps=steps,
        internal_batch_size=max(len(crops), 64),
        return_convergence_delta=True,
    )
    found = found.detach()
    total = found.sum(dim=(1, 2, 3))
    relative = gap.detach().abs() / (total - gap.detach()).abs().clamp(min=1)
    return found.abs().sum(dim=1), relative


def saliency(
    model: nn.Module,
    pixels: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    crop_px: int,
    layer: str | None = None,
    per_class: int = 20,
    shown: int = 1,
    steps: int = STEPS,
    seed: int = 0,
) -> AnalysisResult:
    """Where a network looks for each class: maps averaged over aligned faces, and single pictures.

    Each map is of the score of the picture's true class and is divided by its sum before the average, so that every
    picture has the same say. Integrated gradients start from the mean of all the pictures given: they say what sets
    this face apart from the average face.

    Args:
        model: an expression net or a fine-tuned face net.
        pixels: (N, S, S, 3) uint8 RGB, aligned.
        labels: (N,) class numbers.
        classes: their names, in the order of the network's scores.
        crop_px: side of the centre crop.
        layer: of Grad-CAM; None for `default_layer`.
        per_class: pictures of each class that are averaged, drawn at random where there are more.
        shown: single pictures of each class in the figure.
        steps: of integrated gradients.
        seed: of the draw.
    Raises:
        UserError: If Captum is missing, the layer gives no maps, a picture has no label, a class no picture, the
            network has other classes, or a map is not finite.
    """
    _captum()
    check_pixels(pixels, crop_px)
    check_labels(labels, classes, len(pixels))
    if class_count(model) != len(classes):
        raise UserError(
            f"{title(model)} has {class_count(model) or 'no'} class scores, expected {len(classes)}: "
            f"{', '.join(classes)}"
        )
    layer = default_layer(model, crop_px) if layer is None else layer
    check_spatial(model, layer, crop_px)
    device = device_of(model)
    baseline = _mean_crop(pixels, crop_px).to(device)
    rows = _sample(labels, len(classes), max(per_class, shown), seed)
    maps, gaps = _maps(model, pixels[rows], labels[rows], crop_px, layer, baseline, steps, device)
    averaged = {
        method: np.stack([values[labels[rows] == number].mean(axis=0) for number in range(len(classes))])
        for method, values in maps.items()
    }
    table = _thirds(averaged, classes, np.bincount(labels[rows], minlength=len(classes)))
    says = (
        f"Where the network looks for the score of the true class: Grad-CAM of layer {layer}, and integrated gradients "
        f"from the mean face ({steps} points; their sum misses the score's difference by {np.median(gaps):.1%} in the "
        f"median). Averaged over up to {per_class} pictures a class."
    )
    faces = {
        number: pixels[labels == number].astype(np.float32).mean(axis=0) / 255
        for number in range(len(classes))
    }
    edge = (pixels.shape[1] - crop_px) // 2
    cut = slice(edge, edge + crop_px)
    figure = _figure({n: face[cut, cut] for n, face in faces.items()}, averaged, classes)
    singles = _singles(pixels[rows][:, cut, cut], labels[rows], maps, classes, shown)
    return AnalysisResult(
        "saliency",
        "Where the network looks",
        says,
        table,
        figure,
        _numbers(averaged, classes),
        more_figures={"pictures": singles},
    )


def _captum() -> Any:
    try:
        import captum.attr
    except ImportError:
        raise UserError(f"saliency needs the package captum, which is not here; {INSTALL}") from None
    return captum.attr


def _mean_crop(pixels: np.ndarray, crop_px: int) -> Tensor:
    edge = (pixels.shape[1] - crop_px) // 2
    cut = slice(edge, edge + crop_px)
    mean = pixels[:, cut, cut].mean(axis=0, dtype=np.float64)
    return torch.from_numpy(mean).permute(2, 0, 1)[None].float()


def _sample(labels: np.ndarray, classes: int, per_class: int, seed: int) -> np.ndarray:
    """Row numbers, ascending, of at most `per_class` pictures of each class."""
    generator = np.random.default_rng(seed)
    rows = [generator.permutation(np.flatnonzero(labels == number))[:per_class] for number in range(classes)]
    return np.sort(np.concatenate(rows))


def _maps(
    model: nn.Module,
    pixels: np.ndarray,
    labels: np.ndarray,
    crop_px: int,
    layer: str,
    baseline: Tensor,
    steps: int,
    device: torch.device,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Method -> (N, crop_px, crop_px) maps that sum to 1 each (to 0 where nothing speaks for the class)."""
    found: dict[str, list[np.ndarray]] = {method: [] for method in METHODS}
    gaps = []
    with evaluating(model):
        for first in range(0, len(pixels), BATCH):
            crops = crops_of(pixels[first : first + BATCH], crop_px, device)
            targets = torch.from_numpy(labels[first : first + BATCH]).to(device)
            ours = (
                grad_cam(model, crops, targets, layer),
                integrated_gradients(model, crops, targets, baseline, steps),
            )
            gaps.append(ours[1][1].cpu().numpy())
            for method, values in zip(METHODS, (ours[0], ours[1][0]), strict=True):
                if not bool(values.isfinite().all()):
                    raise UserError(
                        f"{method} of {title(model)} gives NaN or infinity, expected finite numbers: the network's "
                        "weights are broken, most likely by a training that diverged"
                    )
                total = values.sum(dim=(1, 2), keepdim=True)
                found[method].append((values / total.clamp(min=1e-12)).cpu().numpy())
    return {method: np.concatenate(parts) for method, parts in found.items()}, np.concatenate(gaps)


def _thirds(averaged: dict[str, np.ndarray], classes: Sequence[str], pictures: np.ndarray) -> pd.DataFrame:
    """The share of each class's map in the upper, middle and lower third: brows and eyes, nose, mouth and chin."""
    rows = []
    for method, maps in averaged.items():
        for name, values, count in zip(classes, maps, pictures, strict=True):
            parts = [float(part.sum()) for part in np.array_split(values, 3, axis=0)]
            total = sum(parts) or 1.0
            rows.append((method, name, int(count), *(part / total for part in parts)))
    return pd.DataFrame(
        rows, columns=["method", "class", "pictures", "upper_third", "middle_third", "lower_third"]
    )


def _numbers(averaged: dict[str, np.ndarray], classes: Sequence[str]) -> pd.DataFrame:
    """The averaged maps in long form, brought to `DATA_PX` a side by averaging; each map sums to 1."""
    rows = []
    for method, maps in averaged.items():
        side = min(DATA_PX, maps.shape[-1])
        small = functional.adaptive_avg_pool2d(torch.from_numpy(maps), side).numpy()
        small = small / np.maximum(small.sum(axis=(1, 2), keepdims=True), 1e-12)
        for name, values in zip(classes, small, strict=True):
            rows += [(method, name, r, c, float(values[r, c])) for r, c in np.ndindex(*values.shape)]
    return pd.DataFrame(rows, columns=["method", "class", "row", "column", "share"])


def _overlay(axes: Axes, face: np.ndarray, values: np.ndarray | None) -> None:
    """A grey face with the map over it: the stronger, the more opaque and the lighter."""
    grey = face if values is None else np.repeat(face.mean(axis=-1, keepdims=True), 3, axis=-1) * 0.75
    axes.imshow(grey, interpolation="bilinear")
    if values is not None:
        strength = np.clip(values / max(float(np.quantile(values, 0.995)), 1e-12), 0, 1)
        axes.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=0.85 * strength, interpolation="bilinear")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _smooth(values: np.ndarray) -> np.ndarray:
    """A map blurred by a 40th of its side, for the eye; the numbers beside the figure are not blurred."""
    from scipy.ndimage import gaussian_filter

    smoothed: np.ndarray = gaussian_filter(values, values.shape[-1] / 40)
    return smoothed


def _figure(faces: dict[int, np.ndarray], averaged: dict[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Columns are classes; rows the mean face and each method's mean map over it."""
    with style():
        figure = new_figure(1.2 * len(classes) + 0.6, 1.22 * (1 + len(averaged)) + 0.3)
        grid = figure.subplots(1 + len(averaged), len(classes), squeeze=False)
        for number, name in enumerate(classes):
            _overlay(grid[0, number], faces[number], None)
            grid[0, number].set_title(short(name, 14), fontsize=9, loc="center")
            for line, maps in zip(grid[1:], averaged.values(), strict=True):
                _overlay(line[number], faces[number], _smooth(maps[number]))
        for axes, name in zip(grid[:, 0], ["mean face", *averaged], strict=True):
            axes.set_ylabel(name.replace(" ", "\n"), fontsize=8.5, color=QUIET)
    return figure


def _singles(
    crops: np.ndarray, labels: np.ndarray, maps: dict[str, np.ndarray], classes: Sequence[str], shown: int
) -> Figure:
    """The first pictures of each class: the picture and each method's map; one column a picture."""
    chosen = [row for number in range(len(classes)) for row in np.flatnonzero(labels == number)[:shown]]
    with style():
        figure = new_figure(1.2 * len(chosen) + 0.6, 1.22 * (1 + len(maps)) + 0.3)
        grid = figure.subplots(1 + len(maps), len(chosen), squeeze=False)
        for column, row in enumerate(chosen):
            face = crops[row].astype(np.float32) / 255
            _overlay(grid[0, column], face, None)
            grid[0, column].set_title(short(classes[labels[row]], 14), fontsize=9, loc="center")
            for line, values in zip(grid[1:], maps.values(), strict=True):
                _overlay(line[column], face, _smooth(values[row]))
        for axes, name in zip(grid[:, 0], ["picture", *maps], strict=True):
            axes.set_ylabel(name.replace(" ", "\n"), fontsize=8.5, color=QUIET)
    return figure
