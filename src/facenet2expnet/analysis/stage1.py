"""What remains of stage 1 in the finished expression net: how much of the face net's layer its bridge explains."""

from __future__ import annotations

import numpy as np
import pandas as pd
from torch import nn

from facenet2expnet.analysis.inputs import EXPRESSION, AnalysisInput
from facenet2expnet.analysis.layers import layer_features, layer_shapes
from facenet2expnet.analysis.result import AnalysisResult
from facenet2expnet.errors import UserError
from facenet2expnet.nets.bridge import as_chw
from facenet2expnet.report.figures import panels, short, style


@style()
def stage1(inputs: AnalysisInput) -> AnalysisResult:
    """R² of each channel between the expression net's bridge and the face net's layer that stage 1 distilled.

    Args:
        inputs: with the expression net and its teacher under their names.
    Raises:
        UserError: If the layer does not have the bridge's shape, or a network gives NaN.
    """
    student, teacher, tap = inputs.nets[EXPRESSION], inputs.nets[inputs.teacher], inputs.tap
    channels = channel_r2(student, teacher, inputs.pixels, inputs.crop_px, tap)
    alive = channels.dropna()
    r2, r2_as_is = np.average(alive[["r2", "r2_as_is"]], axis=0, weights=alive["variance_share"])
    row = {
        "teacher_layer": tap,
        "channels": len(channels),
        "constant_channels": len(channels) - len(alive),
        "r2": r2,
        "r2_median": alive["r2"].median(),
        "r2_as_is": r2_as_is,
    }
    summary = (
        f"Over {len(inputs.pixels):,} images the bridge explains {100 * r2:.1f} % of the variance of {tap}, each "
        f"channel freely scaled (half of the channels {100 * row['r2_median']:.1f} % or more); 0 % is the mean face. "
        f"Without scaling R² is {r2_as_is:.2f}. Stage 2 changes these features; this is what remains of stage 1."
    )
    figure, (axes,) = panels(1, 1, 4.2, 2.9)
    axes.plot(np.sort(channels["r2"].dropna().to_numpy())[::-1], color="#0b4f8a")
    axes.set(ylim=(0, 1), xlabel=f"channels of {short(tap)}, sorted", ylabel="R², freely scaled")
    axes.grid(axis="y")
    return AnalysisResult("stage1", "What remains of stage 1", summary, pd.DataFrame([row]), figure, channels)


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
    """
    shapes = layer_shapes(student, crop_px), layer_shapes(teacher, crop_px)
    ours, theirs = as_chw(shapes[0]["bridge"]), as_chw(shapes[1].get(teacher_layer, (0,)))
    if ours != theirs:
        raise UserError(
            f"the bridge has the shape {ours}, the face net's layer '{teacher_layer}' {theirs}; expected the layer "
            "that the expression net was trained on"
        )
    students = layer_features(student, pixels, "bridge", crop_px).reshape(len(pixels), ours[0], -1)
    teachers = layer_features(teacher, pixels, teacher_layer, crop_px).reshape(students.shape)
    rows = []
    for channel in range(ours[0]):
        s, t = students[:, channel].astype(np.float64), teachers[:, channel].astype(np.float64)
        error = ((s - t) ** 2).sum()
        s, t = s - s.mean(axis=0), t - t.mean(axis=0)
        variance = max((t * t).sum(), 1e-30)
        r2 = (s * t).sum() ** 2 / (max((s * s).sum(), 1e-30) * variance)
        rows.append((channel, r2, 1 - error / variance, variance))
    table = pd.DataFrame(rows, columns=["channel", "r2", "r2_as_is", "variance_share"])
    table["variance_share"] /= table["variance_share"].sum()
    constant = table["variance_share"] <= 1e-12 * table["variance_share"].max()
    table.loc[constant, ["r2", "r2_as_is"]] = np.nan
    return table
