"""Mean faces: what a neuron of the top hidden layer responds to, Figs. 4 and 5 of the paper."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from facenet2expnet.analysis.inputs import AnalysisInput
from facenet2expnet.analysis.layers import hidden_layer
from facenet2expnet.analysis.result import AnalysisResult
from facenet2expnet.analysis.top_activations import default_top, label_entropy, top_activations
from facenet2expnet.errors import UserError
from facenet2expnet.report.figures import QUIET, new_figure, short, style

PAPER_FACES = 30
"""Faces averaged for the paper's 1,308 images: our choice; the paper says "high response" and gives no number."""


def mean_faces(
    inputs: AnalysisInput, *, layer: str | None = None, per_class: int = 2, top: int | None = None
) -> AnalysisResult:
    """The mean of the aligned faces with the highest response, for the most class-specific neurons of a layer.

    Each class gets the neurons of lowest label entropy whose commonest class it is. Neurons that give every image the
    same response are left out.

    Args:
        inputs: one network.
        layer: a layer's name; None for the top hidden layer.
        per_class: neurons of each class.
        top: number of faces averaged; None for 30 of 1,308, see `default_top`.
    Raises:
        UserError: If no neuron is left, or the layer does not exist.
    Source: FN2EN, section IV-B, Figs. 4 and 5.
    """
    classes = inputs.classes
    layer = layer or hidden_layer(inputs.net)
    top = default_top(len(inputs.pixels), PAPER_FACES) if top is None else top
    found = top_activations(inputs.net, inputs, [layer], top)[layer]
    shares, alive, images = (
        found.class_shares().cpu().numpy(),
        ~found.constant.cpu().numpy(),
        found.images.cpu().numpy(),
    )
    if not alive.any():
        raise UserError(
            f"layer '{layer}': each of its {len(shares)} neurons gives every image the same response; choose another "
            "layer, or a trained network"
        )
    entropies, best = label_entropy(shares), shares.argmax(axis=1)
    order = np.argsort(entropies, kind="stable")
    by_class = [order[(best[order] == number) & alive[order]][:per_class] for number in range(len(classes))]
    chosen = np.concatenate(by_class)
    columns = {
        "layer": layer,
        "unit": chosen,
        "class": [classes[number] for number in best[chosen]],
        "share": shares[chosen, best[chosen]],
        "entropy_nats": entropies[chosen],
        "pictures": images.shape[1],
    }
    table = pd.DataFrame(columns)
    listed = pd.DataFrame(
        [(layer, unit, place + 1, row) for unit in chosen for place, row in enumerate(images[unit])],
        columns=["layer", "unit", "place", "picture"],
    )
    summary = (
        f"Each image is the mean of the {images.shape[1]} faces with the highest response of one neuron of layer "
        f"{layer}; the caption gives the neuron, the commonest class among the faces and its share."
    )
    if without := [name for name, units in zip(classes, by_class, strict=True) if not len(units)]:
        summary += f" No neuron has {', '.join(without)} as its commonest class."
    faces = [inputs.pixels[images[unit]].astype(np.float32).mean(axis=0) for unit in chosen]
    title = "Mean faces of the strongest responses"
    return AnalysisResult(
        "mean-faces", title, summary, table, _figure(faces, table), table, {"pictures": listed}
    )


def _figure(faces: Sequence[np.ndarray], table: pd.DataFrame) -> Figure:
    """A grid of the faces, a column a class."""
    names, lines = list(table["class"].unique()), table.groupby("class", sort=False).cumcount()
    with style():
        figure = new_figure(1.25 * len(names) + 0.2, 1.62 * (lines.max() + 1) + 0.2)
        grid = figure.subplots(lines.max() + 1, len(names), squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for line, face, unit, name, share in zip(
            lines, faces, table["unit"], table["class"], table["share"], strict=True
        ):
            axes = grid[line, names.index(name)]
            axes.imshow(face.round().astype(np.uint8), interpolation="bilinear")
            axes.set_title(f"{short(name, 14)}  {share:.0%}", fontsize=8, loc="center", pad=3)
            look = {"ha": "center", "va": "top", "fontsize": 7, "color": QUIET}
            axes.text(0.5, -0.03, f"neuron {unit}", transform=axes.transAxes, **look)
    return figure
