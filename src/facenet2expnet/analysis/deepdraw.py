"""Images that maximise a class score or a neuron, by gradient ascent: Fig. 1 of the paper."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.analysis.inputs import AnalysisInput
from facenet2expnet.analysis.layers import SCORES, layer_batches, layer_outputs, layer_shapes, mean_crop
from facenet2expnet.analysis.result import AnalysisResult, image_grid
from facenet2expnet.errors import UserError

# The settings of a drawing; the paper names none.
OCTAVES = (0.25, 0.5, 0.75, 1.0)  # sides at which the image is drawn in turn: shapes first, then detail
STEP_PX = (3.0, 0.8)  # move of the average pixel in the first and the last step of an octave, in 0..255
JITTER = 0.08  # largest random shift of the image before a step, as a part of its side
BLUR_PX = 1.0  # standard deviation of the blur after the first step of an octave; 0 after the last
DECAY = 0.03  # share of its distance to the starting image that each pixel moves back in a step
NOISE = 8.0  # standard deviation of the starting noise, in 0..255


def deepdraw(
    inputs: AnalysisInput, targets: Sequence[str] = (), *, layer: str = SCORES, steps: int = 60
) -> AnalysisResult:
    """The drawn images of several networks side by side: one row a network, one column a target.

    Args:
        inputs: the networks, and their training images: drawing starts from the mean image, and the highest response of
            an image is compared with the drawn image's.
        targets: classes, or numbers of units or channels of `layer`; by default all classes.
        layer: a layer that all the networks have.
        steps: gradient steps in each octave.
    Raises:
        UserError: If a network does not have a target, or as `draw`.
    Source: FN2EN, Fig. 1.
    """
    targets = targets or (inputs.classes if layer == SCORES else ())
    rows, lines = [], []
    for name, model in inputs.nets.items():
        numbers = _target_numbers(model, layer, targets, inputs)
        batches = layer_batches(model, inputs.pixels, [layer], inputs.crop_px)
        highest = torch.stack([_per_target(outputs[layer])[:, numbers].amax(dim=0) for _, outputs in batches])
        best = highest.amax(dim=0).cpu().numpy()
        start = mean_crop(inputs.pixels, inputs.crop_px, model)
        images, scores = draw(model, numbers, start, layer=layer, steps=steps, seed=inputs.seed)
        rows += [(name, *row) for row in zip(targets, scores, best, strict=True)]
        captions = [f"score {s:.1f}\nbest picture {b:.1f}" for s, b in zip(scores, best, strict=True)]
        lines.append(list(zip(images, targets, captions, strict=True)))
    table = pd.DataFrame(rows, columns=["network", "target", "score", "best_picture_score"])
    summary = (
        f"Images that maximise one target each (layer {layer}), drawn by gradient ascent from the mean face. "
        f"{(table['score'] > table['best_picture_score']).sum()} of {len(table)} score higher than any of the "
        f"{len(inputs.pixels):,} images. Below each are its score and the highest score of an image."
    )
    figure = image_grid(lines, list(inputs.nets))
    return AnalysisResult("deepdraw", "Images that maximise a response", summary, table, figure, table)


def _target_numbers(model: nn.Module, layer: str, targets: Sequence[str], inputs: AnalysisInput) -> list[int]:
    known = [str(number) for number in range(layer_shapes(model, inputs.crop_px).get(layer, (0,))[0])]
    names = list(inputs.classes) if layer == SCORES else known
    if not targets or (wrong := [target for target in targets if target not in {*known, *names}]):
        expected = ", ".join(names) if layer == SCORES else f"a number below {len(known)}"
        raise UserError(f"target '{wrong[0] if targets else ''}' of layer '{layer}': expected {expected}")
    return [names.index(target) if target in names else int(target) for target in targets]


def draw(
    model: nn.Module,
    targets: Sequence[int],
    start: Tensor,
    *,
    layer: str = SCORES,
    steps: int = 60,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image a target by gradient ascent on its response; all targets in one batch.

    A step moves every image along its gradient, scaled to a mean absolute value of 1 so that no rate depends on the
    network; then come decay, blur, and clipping to 0..255. The image of the last octave with the highest response is
    kept.

    Args:
        model: an expression net or a face net; class scores need a classifier.
        targets: class numbers; or unit numbers of `layer`, or channels (their mean) if it has maps.
        start: (1, 3, H, W) in 0..255, the image to start from. Noise is added to it.
        layer: the layer whose responses are maximised.
        steps: gradient steps in each octave.
        seed: of noise and jitter.
    Returns:
        (T, H, W, 3) uint8 RGB; (T,) each target's response to its image, rounded to 8 bits.
    Raises:
        UserError: If the network passes no gradient.
    Source: FN2EN, Fig. 1; the regularisers are those of Yosinski et al., arXiv 1506.06579, and of Google's DeepDream
        (octaves, jitter).
    """
    generator = torch.Generator().manual_seed(seed)
    crop_px = start.shape[-1]

    def responses(crops: Tensor) -> Tensor:
        """The response of the t-th target to the t-th crop, (T,)."""
        values = _per_target(layer_outputs(model, crops, [layer])[layer])
        return values[torch.arange(len(targets)), torch.as_tensor(targets)]

    noise = torch.randn(start.shape, generator=generator).to(start.device) * NOISE
    images = (start.expand(len(targets), -1, -1, -1) + noise).clamp(0, 255)
    best = images.round()
    best_responses = responses(best).detach()
    reach = round(JITTER * crop_px)
    for octave in OCTAVES:
        side = max(4, round(octave * crop_px))
        images, ground = _resize(images, side), _resize(start, side)
        for step in range(steps):
            images = images.detach().requires_grad_(True)
            shift = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
            response = responses(torch.roll(_resize(images, crop_px), shift, dims=(2, 3))).sum()
            if not response.requires_grad:
                raise UserError("the network passes no gradient, so nothing can be drawn; give another network")
            (gradient,) = torch.autograd.grad(response, images)
            with torch.no_grad():
                images = _step(images, gradient, ground, step / max(1, steps - 1))
                if octave == 1:
                    found = responses(images.round())
                    best = torch.where((found > best_responses)[:, None, None, None], images.round(), best)
                    best_responses = torch.maximum(found, best_responses)
        images = _resize(images, crop_px)
    return best.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy(), best_responses.cpu().numpy()


def _step(images: Tensor, gradient: Tensor, ground: Tensor, done: float) -> Tensor:
    """Images (T, 3, side, side) after one step; `done` is the part of the octave's steps taken, 0..1."""
    gradient = gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    moved = images + (STEP_PX[0] + done * (STEP_PX[1] - STEP_PX[0])) * gradient
    moved = moved + DECAY * (ground - moved)
    sigma = BLUR_PX * (1 - done)
    if sigma > 0.05:
        kernel = 2 * max(1, round(3 * sigma)) + 1
        moved = gaussian_blur2d(moved, (kernel, kernel), (sigma, sigma), border_type="replicate")
    return moved.clamp(0, 255)


def _resize(images: Tensor, side: int) -> Tensor:
    if images.shape[-1] < side:
        resized = functional.interpolate(images, size=(side, side), mode="bicubic", align_corners=False)
        return resized.clamp(0, 255)
    return functional.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=True)


def _per_target(values: Tensor) -> Tensor:
    """(B, C, H, W) -> the mean of each channel (B, C); (B, U) is unchanged."""
    return values.mean(dim=(2, 3)) if values.ndim == 4 else values
