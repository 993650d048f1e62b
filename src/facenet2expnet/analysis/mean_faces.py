"""Mean faces: what excites a neuron of the top hidden layer, Figs. 4 and 5 of the paper."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from facenet2expnet.analysis.layers import hidden_layer
from facenet2expnet.analysis.neurons import label_entropy
from facenet2expnet.analysis.result import AnalysisResult
from facenet2expnet.analysis.top_activations import top_pictures
from facenet2expnet.errors import UserError
from facenet2expnet.report.figures import QUIET, new_figure, short, style

PAPER_PICTURES = 1308
COLUMNS = 8


def default_averaged(pictures: int) -> int:
    """How many faces are averaged where nothing is said: 30 of the paper's 1,308, a like share of fewer, 5 at least.

    The paper says "high response" and gives no number; 30 is our choice.
    """
    return min(30, max(5, round(pictures * 30 / PAPER_PICTURES)))


def mean_faces(
    model: nn.Module,
    pixels: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    crop_px: int,
    layer: str | None = None,
    units: Sequence[int] | None = None,
    per_class: int = 2,
    top: int | None = None,
) -> AnalysisResult:
    """The mean of the aligned faces with the highest response, for chosen or the most expression-specific neurons.

    Where none are chosen, each class gets the `per_class` neurons of lowest label entropy whose first class it is.
    Neurons that give every picture the same response are passed over. Of equal responses the earlier picture counts.

    Args:
        model: a face net, fine-tuned or not, or an expression net.
        pixels: (N, S, S, 3) uint8 RGB, aligned.
        labels: (N,) class numbers.
        classes: their names.
        crop_px: side of the centre crop.
        layer: a layer's name; None for the top hidden layer.
        units: numbers of neurons.
        per_class: how many for each class where none are chosen.
        top: how many faces are averaged; None for `default_averaged`.
    Raises:
        UserError: If a unit does not exist, no neuron is left, or as `top_pictures` says.
    Source: FN2EN, section IV-B, Figs. 4 and 5.
    """
    layer = hidden_layer(model) if layer is None else layer
    top = default_averaged(len(pixels)) if top is None else top
    found = top_pictures(model, pixels, labels, classes, [layer], crop_px, top)[layer]
    shares, constant = found.histograms().cpu().numpy(), found.constant.cpu().numpy()
    entropies = label_entropy(shares)
    if units is None:
        chosen = _most_specific(shares, entropies, constant, per_class)
        if not chosen:
            raise UserError(
                f"layer '{layer}': each of its {len(shares)} neurons gives every picture the same response; "
                "choose another layer, or a trained network"
            )
    else:
        chosen = _checked(units, len(shares), layer)
    pictures = found.pictures.cpu().numpy()
    faces = [pixels[pictures[unit]].astype(np.float32).mean(axis=0) for unit in chosen]
    best = shares.argmax(axis=1)
    table = pd.DataFrame(
        {
            "layer": layer,
            "unit": chosen,
            "class": [classes[best[unit]] for unit in chosen],
            "share": [float(shares[unit, best[unit]]) for unit in chosen],
            "entropy_nats": [float(entropies[unit]) for unit in chosen],
            "pictures": pictures.shape[1],
            "constant": [bool(constant[unit]) for unit in chosen],
        }
    )
    listed = pd.DataFrame(
        [(layer, unit, place + 1, int(row)) for unit in chosen for place, row in enumerate(pictures[unit])],
        columns=["layer", "unit", "place", "picture"],
    )
    without = [
        name for number, name in enumerate(classes) if number not in {int(best[unit]) for unit in chosen}
    ]
    says = (
        f"Each picture is the mean of the {pictures.shape[1]} faces that excite one neuron of layer {layer} most; "
        "the caption gives the neuron, the commonest class among them and its share."
    )
    if units is None and without:
        says += f" No neuron has {', '.join(without)} as its first class."
    figure = _figure(faces, table, by_class=units is None)
    return AnalysisResult(
        "mean-faces", "What excites the neurons", says, table, figure, table, {"pictures": listed}
    )


def _most_specific(
    shares: np.ndarray, entropies: np.ndarray, constant: np.ndarray, per_class: int
) -> list[int]:
    """For each class in turn, the units of lowest entropy of which it is the first class."""
    best = shares.argmax(axis=1)
    order = np.argsort(entropies, kind="stable")
    return [
        int(unit)
        for number in range(shares.shape[1])
        for unit in order[(best[order] == number) & ~constant[order]][:per_class]
    ]


def _checked(units: Sequence[int], count: int, layer: str) -> list[int]:
    if not units:
        raise UserError(f"layer '{layer}': expected one neuron at least, got none")
    wrong = [unit for unit in units if not 0 <= unit < count]
    if wrong:
        raise UserError(f"layer '{layer}' has no neuron {wrong[0]}; its {count} neurons are numbered from 0")
    return list(units)


def _figure(faces: Sequence[np.ndarray], table: pd.DataFrame, by_class: bool) -> Figure:
    """A grid of the faces: a column a class, or line by line in the order given."""
    names = list(dict.fromkeys(table["class"]))
    if by_class and len(names) <= COLUMNS + 2:
        seen = table.groupby("class", sort=False).cumcount()
        places = [(int(line), names.index(name)) for line, name in zip(seen, table["class"], strict=True)]
    else:
        places = [divmod(number, COLUMNS) for number in range(len(faces))]
    lines, columns = (1 + max(place[axis] for place in places) for axis in (0, 1))
    with style():
        figure = new_figure(1.25 * columns + 0.2, 1.62 * lines + 0.2)
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for place, face, row in zip(places, faces, table.itertuples(index=False), strict=True):
            axes = grid[place]
            axes.imshow(face.round().astype(np.uint8), interpolation="bilinear")
            axes.set_title(f"{short(row[2], 14)}  {row[3]:.0%}", fontsize=8, loc="center", pad=3)
            look = {"ha": "center", "va": "top", "fontsize": 7, "color": QUIET}
            axes.text(0.5, -0.03, f"neuron {row[1]}", transform=axes.transAxes, **look)
    return figure
