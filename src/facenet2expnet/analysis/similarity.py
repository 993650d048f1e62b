"""How alike two sets of features are: per-channel R² between student and teacher, and CKA between layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from facenet2expnet.analysis.layers import check_layers, layer_shapes, responses, title
from facenet2expnet.errors import UserError
from facenet2expnet.nets.bridge import as_chw


def channel_r2(
    student: nn.Module,
    teacher: nn.Module,
    pixels: np.ndarray,
    *,
    crop_px: int,
    teacher_layer: str,
    student_layer: str = "bridge",
) -> pd.DataFrame:
    """How much of each channel of the face net's layer the expression net's bridge explains, over pictures.

    Every unit is taken relative to its mean over the pictures, so predicting the mean face scores 0. `r2` allows a
    scale of the channel (the squared correlation over pictures and positions, 0..1): a student trained on a
    standardised target, or trained on by stage 2, no longer has the teacher's scale. `r2_as_is` does not, and may be
    below 0. A channel that is constant over the pictures gets NaN.

    Args:
        student: the expression net.
        teacher: the fine-tuned face net.
        pixels: (N, S, S, 3) uint8 RGB.
        crop_px: side of the centre crop.
        teacher_layer: the layer that stage 1 regressed on.
        student_layer: of the same shape; a vector is a map of one position.
    Returns:
        One row a channel: channel, r2, r2_as_is, variance_share (of the teacher's variance over pictures).
    Raises:
        UserError: If the two layers differ in shape.
    """
    check_layers(student, [student_layer])
    check_layers(teacher, [teacher_layer])
    ours = as_chw(layer_shapes(student, crop_px)[student_layer])
    theirs = as_chw(layer_shapes(teacher, crop_px)[teacher_layer])
    if ours != theirs:
        raise UserError(
            f"layer '{student_layer}' of {title(student)} has the shape {ours}, layer '{teacher_layer}' of "
            f"{title(teacher)} {theirs}; expected the layer that the expression net was trained on"
        )
    sums = [torch.zeros(theirs, dtype=torch.float64) for _ in range(5)]
    count = 0
    both = zip(
        responses(student, pixels, [student_layer], crop_px),
        responses(teacher, pixels, [teacher_layer], crop_px),
        strict=True,
    )
    for (_, first), (_, second) in both:
        s, t = (
            values.reshape(-1, *theirs).double().cpu()
            for values in (first[student_layer], second[teacher_layer])
        )
        for total, values in zip(sums, (s, t, s * s, t * t, s * t), strict=True):
            total += values.sum(dim=0)
        count += len(s)
    s_mean, t_mean = sums[0] / count, sums[1] / count
    variance_s = _per_channel(sums[2] / count - s_mean**2)
    variance_t = _per_channel(sums[3] / count - t_mean**2)
    covariance = _per_channel(sums[4] / count - s_mean * t_mean)
    offset = _per_channel((s_mean - t_mean) ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        fitted = covariance**2 / (variance_s * variance_t)
        as_is = 1 - (variance_s + variance_t - 2 * covariance + offset) / variance_t
    dead = variance_t <= 1e-12 * max(float(variance_t.max()), 1e-30)
    fitted[(variance_s <= 0) & ~dead] = 0.0
    return pd.DataFrame(
        {
            "channel": np.arange(len(fitted)),
            "r2": np.where(dead, np.nan, fitted),
            "r2_as_is": np.where(dead, np.nan, as_is),
            "variance_share": variance_t / max(float(variance_t.sum()), 1e-30),
        }
    )


def _per_channel(values: Tensor) -> np.ndarray:
    summed: np.ndarray = values.flatten(1).sum(dim=1).numpy() if values.ndim > 1 else values.numpy().copy()
    return summed


def gram(features: np.ndarray) -> np.ndarray:
    """(N, U) -> the N x N matrix of inner products, in double precision, of features divided by their largest size."""
    scale = max(float(np.abs(features).max()), 1e-30)
    scaled = (features - features.mean(axis=0)).astype(np.float32) / scale
    products: np.ndarray = scaled @ scaled.T
    return products.astype(np.float64)


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Linear CKA of two sets of features from their Gram matrices (N, N), without the bias of few pictures.

    1 for features equal up to rotation, scale and shift; about 0 for independent ones, for which the plain CKA goes
    to 1 as features grow in number. May be a little below 0. NaN where a set of features is constant.

    Source: Kornblith et al., arXiv 1905.00414; with the unbiased HSIC of Song et al. (2012), as in Nguyen et al.,
        arXiv 2010.15327.
    """
    if first.shape != second.shape or first.ndim != 2 or first.shape[0] != first.shape[1]:
        raise ValueError(f"expected two Gram matrices of one size, got {first.shape} and {second.shape}")
    if len(first) < 4:
        raise UserError(f"CKA needs four pictures or more, got {len(first)}")
    own = _hsic(first, first) * _hsic(second, second)
    return float(_hsic(first, second) / np.sqrt(own)) if own > 0 else float("nan")


def _hsic(first: np.ndarray, second: np.ndarray) -> float:
    n = len(first)
    k, m = first - np.diag(np.diag(first)), second - np.diag(np.diag(second))
    trace = float((k * m).sum())
    sums = float(k.sum()) * float(m.sum()) / ((n - 1) * (n - 2))
    cross = 2 / (n - 2) * float(k.sum(axis=0) @ m.sum(axis=0))
    return (trace + sums - cross) / (n * (n - 3))


def cka_table(
    first: nn.Module,
    second: nn.Module,
    pixels: np.ndarray,
    *,
    crop_px: int,
    first_layers: Sequence[str],
    second_layers: Sequence[str],
) -> pd.DataFrame:
    """Linear CKA of every layer of one network with every layer of another; one row a pair: first, second, cka.

    Memory is 8 N² bytes a layer besides one layer's features.
    """
    rows = {name: _gram_of(first, pixels, name, crop_px) for name in first_layers}
    columns = {name: _gram_of(second, pixels, name, crop_px) for name in second_layers}
    pairs = [(a, b, linear_cka(rows[a], columns[b])) for a in rows for b in columns]
    return pd.DataFrame(pairs, columns=["first", "second", "cka"])


def _gram_of(model: nn.Module, pixels: np.ndarray, name: str, crop_px: int) -> np.ndarray:
    parts = [
        found[name].flatten(1).float().cpu().numpy() for _, found in responses(model, pixels, [name], crop_px)
    ]
    return gram(np.concatenate(parts))
