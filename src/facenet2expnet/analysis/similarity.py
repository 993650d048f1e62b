"""How similar the expression net is to the face net after training: R² of each channel, and CKA between layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from facenet2expnet.analysis.inputs import EXPRESSION, AnalysisInput
from facenet2expnet.analysis.layers import layer_features, layer_names, layer_shapes
from facenet2expnet.analysis.result import AnalysisResult
from facenet2expnet.errors import UserError
from facenet2expnet.nets.bridge import as_chw
from facenet2expnet.report.figures import SHADES, ink_on, new_figure, short, style


def stage1_similarity(inputs: AnalysisInput) -> AnalysisResult:
    """R² of each channel between the bridge and the face net's layer that stage 1 distilled, and CKA of all layers.

    Args:
        inputs: with the expression net and its teacher under their names, and four images or more; for N images the
            memory is one layer's features, and 8 N² bytes a layer.
    Raises:
        UserError: If the layer does not have the bridge's shape, or a network gives NaN.
    """
    student, teacher = inputs.nets[EXPRESSION], inputs.nets[inputs.teacher]
    channels = channel_r2(student, teacher, inputs.pixels, inputs.crop_px, inputs.tap)
    cka = cka_table(student, teacher, inputs.pixels, inputs.crop_px)
    alive = channels.dropna()
    weights = alive["variance_share"] / max(alive["variance_share"].sum(), 1e-30)
    of_bridge = cka[(cka["first"] == "bridge") & (cka["second"] == inputs.tap)]["cka"]
    row = {
        "teacher_layer": inputs.tap,
        "channels": len(channels),
        "constant_channels": len(channels) - len(alive),
        "r2": float((alive["r2"] * weights).sum()),
        "r2_median": float(alive["r2"].median()),
        "r2_as_is": float((alive["r2_as_is"] * weights).sum()),
        "cka_of_bridge": float(of_bridge.iloc[0]),
    }
    summary = (
        f"Over {len(inputs.pixels):,} images the bridge explains {row['r2']:.1%} of the variance of {inputs.tap}, each "
        f"channel freely scaled (half of the channels {row['r2_median']:.1%} or more); 0 % is the mean face. "
        f"In its own scale R² is {row['r2_as_is']:.2f}. Stage 2 changes these features: this is what is left of stage 1."
    )
    return AnalysisResult(
        "stage1",
        "Similarity of the expression net and the face net",
        summary,
        pd.DataFrame([row]),
        _figure(channels, cka, inputs),
        cka,
        {"channels": channels},
    )


def channel_r2(
    student: nn.Module, teacher: nn.Module, pixels: np.ndarray, crop_px: int, teacher_layer: str
) -> pd.DataFrame:
    """How much of each channel of the face net's layer the expression net's bridge explains, over images.

    Every unit is taken relative to its mean over the images, so predicting the mean face scores 0. `r2` allows a scale
    of the channel (the squared correlation over images and positions, 0..1): a student trained on a standardised
    target, or trained further by stage 2, no longer has the teacher's scale. `r2_as_is` does not, and may be below 0. A
    channel that is constant over the images has NaN.

    Returns:
        One row a channel: channel, r2, r2_as_is, variance_share (of the teacher's variance over images).
    Raises:
        UserError: If bridge and layer differ in shape.
    """
    shapes = layer_shapes(student, crop_px), layer_shapes(teacher, crop_px)
    ours, theirs = as_chw(shapes[0]["bridge"]), as_chw(shapes[1].get(teacher_layer, (0,)))
    if ours != theirs:
        raise UserError(
            f"the bridge has the shape {ours}, the face net's layer '{teacher_layer}' {theirs}; expected the layer that "
            "the expression net was trained on"
        )
    features = (
        layer_features(student, pixels, "bridge", crop_px).reshape(len(pixels), ours[0], -1),
        layer_features(teacher, pixels, teacher_layer, crop_px).reshape(len(pixels), ours[0], -1),
    )
    rows = []
    for channel in range(ours[0]):
        s, t = (values[:, channel].astype(np.float64) for values in features)
        error = ((s - t) ** 2).sum()
        s, t = s - s.mean(axis=0), t - t.mean(axis=0)
        rows.append((channel, (s * s).sum(), (t * t).sum(), (s * t).sum(), error))
    channel, variance_s, variance_t, covariance, error = np.array(rows).T
    dead = variance_t <= 1e-12 * max(variance_t.max(), 1e-30)
    divisor = np.where(dead, np.nan, variance_t)
    return pd.DataFrame(
        {
            "channel": channel.astype(int),
            "r2": covariance**2 / (np.maximum(variance_s, 1e-30) * divisor),
            "r2_as_is": 1 - error / divisor,
            "variance_share": variance_t / max(variance_t.sum(), 1e-30),
        }
    )


def gram(features: np.ndarray) -> np.ndarray:
    """(N, U) -> the N x N inner products, in double precision, of features divided by their largest absolute value."""
    scale = max(float(np.abs(features).max()), 1e-30)
    scaled = (features - features.mean(axis=0)).astype(np.float32) / scale
    products: np.ndarray = scaled @ scaled.T
    return products.astype(np.float64)


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Linear CKA of two sets of features from their Gram matrices (N, N), N >= 4, without the bias of few images.

    1 for features equal up to rotation, scale and shift; about 0 for independent ones, for which the plain CKA tends to
    1 as features grow in number. It may be a little below 0. NaN if a set of features is constant.

    Source: Kornblith et al., arXiv 1905.00414; with the unbiased HSIC of Song et al. (2012), as in Nguyen et al.,
        arXiv 2010.15327.
    """
    if len(first) < 4:
        raise UserError(f"CKA needs four images or more, got {len(first)}")
    own = _hsic(first, first) * _hsic(second, second)
    return float(_hsic(first, second) / np.sqrt(own)) if own > 0 else float("nan")


def _hsic(first: np.ndarray, second: np.ndarray) -> float:
    n = len(first)
    k, m = first - np.diag(np.diag(first)), second - np.diag(np.diag(second))
    trace = float((k * m).sum())
    sums = float(k.sum()) * float(m.sum()) / ((n - 1) * (n - 2))
    cross = 2 / (n - 2) * float(k.sum(axis=0) @ m.sum(axis=0))
    return (trace + sums - cross) / (n * (n - 3))


def cka_table(first: nn.Module, second: nn.Module, pixels: np.ndarray, crop_px: int) -> pd.DataFrame:
    """Linear CKA of every layer of one network with every layer of another; one row a pair: first, second, cka."""
    grams = [
        {name: gram(layer_features(net, pixels, name, crop_px)) for name in layer_names(net)}
        for net in (first, second)
    ]
    pairs = [(a, b, linear_cka(grams[0][a], grams[1][b])) for a in grams[0] for b in grams[1]]
    return pd.DataFrame(pairs, columns=["first", "second", "cka"])


def _figure(channels: pd.DataFrame, cka: pd.DataFrame, inputs: AnalysisInput) -> Figure:
    """Left: R² of the channels, sorted. Right: CKA of every pair of layers, darker is more similar."""
    rows, columns = list(dict.fromkeys(cka["first"])), list(dict.fromkeys(cka["second"]))
    matrix = cka["cka"].to_numpy().reshape(len(rows), len(columns))
    with style():
        figure = new_figure(3.4 + 0.46 * len(columns) + 1.6, max(2.9, 0.36 * len(rows) + 1.2))
        left, right = figure.subplots(1, 2, width_ratios=[3.2, 0.46 * len(columns) + 1.2])
        ordered = np.sort(channels["r2"].dropna().to_numpy())[::-1]
        left.fill_between(np.arange(len(ordered)), ordered, color="#0b4f8a", alpha=0.25, linewidth=0)
        left.plot(ordered, color="#0b4f8a")
        left.set(ylim=(0, 1), xlabel=f"channels of {short(inputs.tap)}, sorted", ylabel="R², freely scaled")
        left.set_title("bridge against face net")
        left.grid(axis="y")
        edges = np.arange(len(columns) + 1) - 0.5, np.arange(len(rows) + 1) - 0.5
        right.pcolormesh(*edges, np.nan_to_num(matrix), **SHADES)
        for row, column in np.ndindex(*matrix.shape):
            value = matrix[row, column]
            text = f"{value:.2f}".replace("-0.00", "0.00") if np.isfinite(value) else "–"
            look: dict[str, Any] = {
                "ha": "center",
                "va": "center",
                "fontsize": 7,
                "color": ink_on(float(value)),
            }
            right.text(column, row, text, **look)
        right.set(ylim=(len(rows) - 0.5, -0.5), xlabel=inputs.teacher, ylabel=EXPRESSION)
        right.set_xticks(range(len(columns)), labels=columns, rotation=45, ha="right", rotation_mode="anchor")
        right.set_yticks(range(len(rows)), labels=rows)
        right.tick_params(length=0)
        right.set_title("CKA between layers")
    return figure
