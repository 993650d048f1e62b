"""Pictures that a network would rate highest: gradient ascent on a class score or a neuron, Fig. 1 of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from kornia.filters import gaussian_blur2d
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.analysis.layers import (
    SCORES,
    check_layers,
    check_pixels,
    device_of,
    evaluating,
    layer_outputs,
    layer_shapes,
    responses,
    title,
)
from facenet2expnet.analysis.result import AnalysisResult
from facenet2expnet.errors import UserError
from facenet2expnet.report.figures import QUIET, new_figure, short, style


@dataclass(frozen=True)
class DrawRecipe:
    """How a picture is drawn.

    Attributes:
        octaves: sides of the picture at which it is drawn in turn, as parts of the full side; the network always sees
            it enlarged to the full side. Small ones first give large shapes before detail.
        steps: gradient steps in each octave.
        step_px: how far the average pixel moves in a step, in 0..255, in the first step of an octave.
        last_step_px: the same in its last step.
        jitter: largest random shift of the picture before a step, as a part of the side.
        blur: standard deviation of the Gaussian blur after a step, in pixels of the octave, in the first step of an
            octave; falls to 0 in its last.
        decay: share of its distance to the starting picture's mean that each pixel goes back in a step.
        noise: standard deviation of the starting noise, in 0..255.
        seed: of noise and jitter.
    """

    octaves: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    steps: int = 60
    step_px: float = 3.0
    last_step_px: float = 0.8
    jitter: float = 0.08
    blur: float = 1.0
    decay: float = 0.03
    noise: float = 8.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.octaves or not all(0 < octave <= 1 for octave in self.octaves) or self.octaves[-1] != 1:
            raise UserError(f"octaves are {self.octaves}, expected parts above 0, the last one 1")
        if self.steps < 1:
            raise UserError(f"steps is {self.steps}, expected 1 or more")
        if (
            min(self.step_px, self.last_step_px) <= 0
            or min(self.jitter, self.blur, self.decay, self.noise) < 0
        ):
            raise UserError(f"expected steps above 0; jitter, blur, decay and noise of 0 or more: {self}")


@dataclass(frozen=True, eq=False)
class Drawn:
    """Pictures drawn for some targets.

    Attributes:
        pictures: (T, side, side, 3) uint8 RGB.
        scores: (T,) the target's response to its picture, as rounded to 8 bits.
    """

    pictures: np.ndarray
    scores: np.ndarray


def draw(
    model: nn.Module,
    targets: Sequence[int],
    *,
    crop_px: int,
    layer: str = SCORES,
    recipe: DrawRecipe | None = None,
    start: np.ndarray | None = None,
) -> Drawn:
    """Draw one picture a target by gradient ascent on its response; all targets in one batch.

    A step moves every picture along its gradient, scaled to a mean absolute value of 1 so that no rate depends on
    the network; then come decay, blur, and clipping to 0..255. Of the pictures of the last octave the one with the
    highest score is kept.

    Args:
        model: an expression net or a face net; for class scores it needs a classifier.
        targets: class numbers; or unit numbers of `layer`, or channels (their mean) where it gives maps.
        crop_px: side of the picture, the network's crop.
        layer: the layer whose responses are raised.
        recipe: how.
        start: (crop_px, crop_px, 3) the picture to start from; None for mid-grey. Noise is added to it.
    Raises:
        UserError: If the layer or a target does not exist, or the network passes no gradient.
    Source: FN2EN, Fig. 1; the regularisers are those of Yosinski et al., arXiv 1506.06579, and of Google's DeepDream
        (octaves, jitter). The paper names none of its settings.
    """
    recipe = recipe or DrawRecipe()
    _check_targets(model, layer, targets, crop_px)
    device = device_of(model)
    generator = torch.Generator().manual_seed(recipe.seed)
    ground = _ground(start, crop_px).to(device)
    pictures = ground.expand(len(targets), -1, -1, -1)
    noise = torch.randn((1, 3, crop_px, crop_px), generator=generator).to(device) * recipe.noise
    pictures = (pictures + noise).clamp(0, 255)
    best = pictures.round()
    with evaluating(model):
        best_scores = _responses(model, layer, best, targets).detach()
        for octave in recipe.octaves:
            side = max(4, round(octave * crop_px))
            pictures, small_ground = _shrunk(pictures, side), _shrunk(ground, side)
            for step in range(recipe.steps):
                pictures = _step(
                    model, layer, targets, pictures, small_ground, crop_px, step, recipe, generator
                )
                if octave == 1:
                    best, best_scores = _better(model, layer, targets, pictures, best, best_scores)
            pictures = _enlarged(pictures, crop_px)
    drawn = best.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return Drawn(drawn, best_scores.cpu().numpy())


def _step(
    model: nn.Module,
    layer: str,
    targets: Sequence[int],
    pictures: Tensor,
    ground: Tensor,
    crop_px: int,
    step: int,
    recipe: DrawRecipe,
    generator: torch.Generator,
) -> Tensor:
    """One step of all pictures (T, 3, side, side)."""
    done = step / max(1, recipe.steps - 1)
    pictures = pictures.detach().requires_grad_(True)
    reach = round(recipe.jitter * crop_px)
    shift = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
    shifted = torch.roll(_enlarged(pictures, crop_px), shift, dims=(2, 3))
    response = _responses(model, layer, shifted, targets).sum()
    if not response.requires_grad:
        raise UserError(
            f"{title(model)} passes no gradient, so nothing can be drawn with it; give another network"
        )
    (gradient,) = torch.autograd.grad(response, pictures)
    with torch.no_grad():
        gradient = gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
        length = recipe.step_px + done * (recipe.last_step_px - recipe.step_px)
        moved = pictures + length * gradient
        moved = moved + recipe.decay * (ground - moved)
        sigma = recipe.blur * (1 - done)
        if sigma > 0.05:
            kernel = 2 * max(1, round(3 * sigma)) + 1
            moved = gaussian_blur2d(moved, (kernel, kernel), (sigma, sigma), border_type="replicate")
        return moved.clamp(0, 255)


@torch.no_grad()
def _better(
    model: nn.Module, layer: str, targets: Sequence[int], pictures: Tensor, best: Tensor, best_scores: Tensor
) -> tuple[Tensor, Tensor]:
    rounded = pictures.round()
    scores = _responses(model, layer, rounded, targets)
    higher = scores > best_scores
    return torch.where(higher[:, None, None, None], rounded, best), torch.where(higher, scores, best_scores)


def _shrunk(pictures: Tensor, side: int) -> Tensor:
    return functional.interpolate(
        pictures, size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )


def _enlarged(pictures: Tensor, crop_px: int) -> Tensor:
    if pictures.shape[-1] == crop_px:
        return pictures
    return functional.interpolate(
        pictures, size=(crop_px, crop_px), mode="bicubic", align_corners=False
    ).clamp(0, 255)


def _responses(model: nn.Module, layer: str, crops: Tensor, targets: Sequence[int]) -> Tensor:
    """The response of the t-th target to the t-th crop, (T,)."""
    values = layer_outputs(model, crops, [layer])[layer]
    return _of_targets(values)[torch.arange(len(targets)), torch.as_tensor(targets)]


def _of_targets(values: Tensor) -> Tensor:
    """(B, C, H, W) -> the mean of each channel (B, C); (B, U) stays."""
    return values.mean(dim=(2, 3)) if values.ndim == 4 else values


def best_responses(
    model: nn.Module, pixels: np.ndarray, targets: Sequence[int], *, crop_px: int, layer: str = SCORES
) -> np.ndarray:
    """The highest response of each target to any of the pictures (N, S, S, 3), (T,)."""
    parts = [
        _of_targets(found[layer])[:, list(targets)].amax(dim=0)
        for _, found in responses(model, pixels, [layer], crop_px)
    ]
    highest: np.ndarray = torch.stack(parts).amax(dim=0).cpu().numpy()
    return highest


def deepdraw(
    models: Mapping[str, nn.Module],
    pixels: np.ndarray,
    targets: Sequence[int],
    target_names: Sequence[str],
    *,
    crop_px: int,
    layer: str = SCORES,
    recipe: DrawRecipe | None = None,
    from_mean_face: bool = True,
) -> AnalysisResult:
    """The pictures of several networks side by side: one row a network, one column a target.

    Args:
        models: what each is called -> the network; the fine-tuned face net and the expression net, say.
        pixels: (N, S, S, 3) uint8 RGB, training pictures: their highest score is set against the drawn picture's.
        targets: class numbers, or units or channels of `layer`.
        target_names: of each.
        crop_px: side of the crop.
        layer: that all the networks have.
        recipe: how to draw.
        from_mean_face: start from the mean of the pictures, as the aligned faces that it learned from; else from grey.
    Raises:
        UserError: As `draw`.
    Source: FN2EN, Fig. 1.
    """
    if not models:
        raise UserError("expected one network at least, got none")
    check_pixels(pixels, crop_px)
    edge = (pixels.shape[1] - crop_px) // 2
    start = None
    if from_mean_face:
        start = pixels[:, edge : edge + crop_px, edge : edge + crop_px].mean(axis=0, dtype=np.float64)
    rows, drawn = [], {}
    for name, model in models.items():
        _check_targets(model, layer, targets, crop_px)
        highest = best_responses(model, pixels, targets, crop_px=crop_px, layer=layer)
        drawn[name] = draw(model, targets, crop_px=crop_px, layer=layer, recipe=recipe, start=start)
        rows += list(zip([name] * len(targets), target_names, drawn[name].scores, highest, strict=True))
    table = pd.DataFrame(rows, columns=["network", "target", "score", "best_picture_score"])
    above = int((table["score"] > table["best_picture_score"]).sum())
    says = (
        f"Pictures that raise one target each (layer {layer}), drawn by gradient ascent from "
        f"{'the mean face' if from_mean_face else 'grey'}; {above} of {len(table)} score higher than any of the "
        f"{len(pixels):,} pictures. Below each stand its score and the highest score of a picture."
    )
    figure = _figure(drawn, target_names, table)
    return AnalysisResult("deepdraw", "What the networks want to see", says, table, figure, table)


def _figure(drawn: Mapping[str, Drawn], names: Sequence[str], table: pd.DataFrame) -> Figure:
    rows = iter(table.itertuples(index=False))
    with style():
        figure = new_figure(1.3 * len(names) + 0.5, 1.7 * len(drawn) + 0.25)
        grid = figure.subplots(len(drawn), len(names), squeeze=False)
        for place, (line, (network, found)) in enumerate(zip(grid, drawn.items(), strict=True)):
            for number, (axes, picture, name) in enumerate(zip(line, found.pictures, names, strict=True)):
                axes.imshow(picture, interpolation="bilinear")
                axes.set(xticks=[], yticks=[])
                for spine in axes.spines.values():
                    spine.set_visible(False)
                if place == 0:
                    axes.set_title(short(name, 14), fontsize=9, loc="center")
                if number == 0:
                    axes.set_ylabel(short(network, 22), fontsize=9)
                _, _, score, best = next(rows)
                axes.set_xlabel(f"score {score:.1f}\nbest picture {best:.1f}", fontsize=7.5, color=QUIET)
    return figure


def _ground(start: np.ndarray | None, crop_px: int) -> Tensor:
    if start is None:
        return torch.full((1, 3, crop_px, crop_px), 127.5)
    if start.shape != (crop_px, crop_px, 3):
        raise UserError(f"start is {start.shape}, expected ({crop_px}, {crop_px}, 3)")
    return torch.from_numpy(np.ascontiguousarray(start)).permute(2, 0, 1)[None].float()


def _check_targets(model: nn.Module, layer: str, targets: Sequence[int], crop_px: int) -> None:
    check_layers(model, [layer])
    shape = layer_shapes(model, crop_px)[layer]
    wrong = [target for target in targets if not 0 <= target < shape[0]]
    if wrong or not targets:
        what = "channels" if len(shape) == 3 else "units"
        asked = f"number {wrong[0]} was" if wrong else "none were"
        raise UserError(
            f"layer '{layer}' of {title(model)} has {shape[0]} {what}, numbered from 0; {asked} asked for"
        )
