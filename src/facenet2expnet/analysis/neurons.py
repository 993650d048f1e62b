"""What neurons respond to, and which layer to transfer: Table I and Figs. 3 to 5 of the paper.

A neuron is one unit of a layer: a channel at a position. The K images of its highest response are counted by class. The
entropy of that histogram is low if the neuron responds to few classes (FN2EN, section III-C).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from facenet2expnet.analysis.inputs import AnalysisInput
from facenet2expnet.analysis.layers import hidden_layer, layer_names, layer_shapes
from facenet2expnet.analysis.result import AnalysisResult, image_grid
from facenet2expnet.analysis.top_activations import default_top, label_entropy, top_activations
from facenet2expnet.errors import UserError
from facenet2expnet.report.figures import INK, panels, short, style

BINS = 40
PAPER_FACES = 30
"""Faces averaged for the paper's 1,308 images: our choice; the paper says "high response" and gives no number."""
LOOKS: tuple[dict[str, Any], ...] = (
    {"fill": True, "facecolor": "#d55e00", "alpha": 0.45, "linewidth": 0},
    {"fill": False, "edgecolor": "#0b4f8a", "linewidth": 1.5},
)
"""The network before fine-tuning is a filled shape, the one after it a heavy line, so that they differ in grey, too."""


def neurons(inputs: AnalysisInput, layers: Sequence[str] = (), top: int | None = None) -> AnalysisResult:
    """Table I, Fig. 3 and the layer to transfer, for a network before and after fine-tuning, or for one network.

    Args:
        inputs: the network before fine-tuning, then the one after it; or one network.
        layers: names of layers that the networks have; by default `default_layers`.
        top: K; None for `default_top`.
    Raises:
        UserError: If there are more than two networks, or K takes in all images, since all units would be equal.
    """
    count, nets = len(inputs.pixels), list(inputs.nets.values())
    top = default_top(count) if top is None else top
    layers = layers or default_layers(nets[0])
    if len(nets) > 2:
        raise UserError(f"expected one network, or two: before and after fine-tuning, got {len(nets)}")
    if top >= count:
        raise UserError(
            f"top is {top} and there are {count} images: the top of every unit would be all of them, and all units "
            f"equal; expected a smaller top, such as {default_top(count)}, or more images"
        )
    units = pd.concat([unit_table(name, inputs, layers, top) for name in inputs.nets], ignore_index=True)
    table, threshold = table_one(units)
    figure, bars = entropy_figure(units, threshold, len(inputs.classes))
    summary = (
        f"Entropy of the labels of each neuron's top {top} of {count:,} images. A neuron counts as low-entropy (LES) "
        f"below {threshold:.3f} nats, the lowest mean of a layer; a uniform histogram has "
        f"{np.log(len(inputs.classes)):.3f}. "
    )
    if len(nets) == 2:
        layer, reason = recommend(table)
        summary += reason + (f" To train with it: --set face_net.tap={layer}" if layer else "")
    else:
        summary += "For the layer to transfer, give the network before fine-tuning and the one after it."
    listed = {"units": units.drop(columns=["shape", "maps"])}
    return AnalysisResult("neurons", "Neurons that respond to few classes", summary, table, figure, bars, listed)


def default_layers(model: nn.Module) -> list[str]:
    """The last four layers up to the top hidden one, as the paper's pool4, pool5, fc6 and fc7."""
    names = layer_names(model)
    return list(names[: names.index(hidden_layer(model)) + 1][-4:])


def unit_table(network: str, inputs: AnalysisInput, layers: Sequence[str], top: int) -> pd.DataFrame:
    """Every unit of a network's layers: its place, label entropy in nats, commonest class, and that class's share."""
    model = inputs.nets[network]
    shapes, parts = layer_shapes(model, inputs.crop_px), []
    for name, found in top_activations(model, inputs, layers, top).items():
        shares, shape = found.class_shares().cpu().numpy(), shapes[name]
        numbers, best = np.arange(len(shares)), shares.argmax(axis=1)
        channel, row, column = np.unravel_index(numbers, (*shape, 1, 1)[:3])
        place = {"unit": numbers, "channel": channel, "row": row, "column": column}
        of_layer = {"network": network, "layer": name, "shape": "x".join(map(str, shape)), "maps": len(shape) == 3}
        of_unit = {
            "entropy": label_entropy(shares),
            "class": np.asarray(inputs.classes, dtype=object)[best],
            "share": shares[numbers, best],
            "constant": found.constant.cpu().numpy(),
        }
        parts.append(pd.DataFrame({**of_layer, **place, **of_unit}))
    return pd.concat(parts, ignore_index=True)


def table_one(units: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """The low-entropy (LES) neurons of each layer before fine-tuning, and the signed change after it.

    There is one threshold: the lowest mean entropy of a layer, over both networks. The paper does not say so, but its
    numbers do: before fine-tuning at most 8.3 % of a layer's units are below it on CK+, and not about half.

    Args:
        units: of `unit_table`, for one network, or for the one before fine-tuning and then the one after it.
    Returns:
        One row a layer; the threshold in nats.
    Source: FN2EN, Table I.
    """
    keys = ["network", "layer"]
    threshold = float(units.groupby(keys)["entropy"].mean().min())
    groups = units.assign(low=units["entropy"] < threshold).groupby(keys, sort=False)
    stats = groups.agg(
        shape=("shape", "first"),
        maps=("maps", "first"),
        units=("unit", "size"),
        les=("low", "sum"),
        les_share=("low", "mean"),
        mean_entropy=("entropy", "mean"),
        constant=("constant", "sum"),
    )
    before, *after = [stats.loc[network] for network in units["network"].unique()]
    table = before.reset_index()
    for changed in after:
        table["les_change"] = (changed["les"] - before["les"]).to_numpy()
        for column in ("les_share", "mean_entropy", "constant"):
            table[f"{column}_after"] = changed[column].to_numpy()
    return table, threshold


def recommend(table: pd.DataFrame) -> tuple[str, str]:
    """The layer to transfer: of the layers with maps, the one in which fine-tuning made the most LES neurons.

    This is the paper's argument for pool5 as a rule: such neurons must be many, hence maps, and counts instead of
    shares, and fine-tuning must have made them. On both rows of the paper's Table I the rule gives pool5.

    Args:
        table: of `table_one`, for two networks.
    Returns:
        The layer's name, "" if there is none; a sentence.
    Source: FN2EN, section III-C, last paragraph; the rule is our reading.
    """
    maps = table[table["maps"] & (table["les_change"] > 0)]
    if maps.empty:
        return "", "No layer to transfer: fine-tuning made low-entropy neurons in no layer with maps."
    best = maps.iloc[int(maps["les_change"].argmax())]
    return str(best["layer"]), (
        f"Layer to transfer: {best['layer']}. Of the layers with maps, fine-tuning made the most low-entropy neurons "
        f"here, {best['les_change']:+,} to {best['les'] + best['les_change']:,} of {best['units']:,}."
    )


@style()
def entropy_figure(units: pd.DataFrame, threshold: float, classes: int) -> tuple[Figure, pd.DataFrame]:
    """Entropy histograms, one panel a layer, the networks overlaid; and the bars as numbers.

    The dashed line is the threshold of LES neurons; the axis ends at the entropy of a uniform histogram.

    Source: FN2EN, Fig. 3.
    """
    edges = np.linspace(0, np.log(classes), BINS + 1)
    edges[-1] += 1e-9
    layers, rows = units["layer"].unique(), []
    figure, grid = panels(len(layers), 4, 2.5, 2.5)
    for axes, name in zip(grid, layers, strict=True):
        networks = units[units["layer"] == name].groupby("network", sort=False)["entropy"]
        for (network, entropies), look in zip(networks, LOOKS, strict=False):
            counts = np.histogram(entropies, edges)[0]
            axes.stairs(counts, edges, label=network, **look)
            rows += [(name, network, *bar) for bar in zip(edges, edges[1:], counts, strict=False)]
        axes.axvline(threshold, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.grid(axis="y")
        axes.set(xlabel="entropy, nats", xlim=(0, edges[-1]), title=f"{short(name)} ({len(entropies):,} units)")
    for axes in grid[::4]:
        axes.set_ylabel("neurons")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure, pd.DataFrame(rows, columns=["layer", "network", "from_nats", "to_nats", "neurons"])


def mean_faces(inputs: AnalysisInput, *, layer: str = "", per_class: int = 2, top: int | None = None) -> AnalysisResult:
    """The mean of the aligned faces with the highest response, for the most class-specific neurons of a layer.

    Each class gets the neurons of lowest label entropy whose commonest class it is. Neurons that give every image the
    same response are left out.

    Args:
        inputs: one network.
        layer: by default the top hidden layer.
        per_class: neurons of each class.
        top: number of faces averaged; None for 30 of 1,308, see `default_top`.
    Raises:
        UserError: If no neuron is left, or the layer does not exist.
    Source: FN2EN, section IV-B, Figs. 4 and 5.
    """
    layer = layer or hidden_layer(inputs.net)
    top = top or default_top(len(inputs.pixels), PAPER_FACES)
    found = top_activations(inputs.net, inputs, [layer], top)[layer]
    shares, images = found.class_shares().cpu().numpy(), found.images.cpu().numpy()
    entropies, best = label_entropy(shares), shares.argmax(axis=1)
    best[found.constant.cpu().numpy()] = -1
    order = np.argsort(entropies, kind="stable")
    rows, listed, cells = [], [], []
    for number, name in enumerate(inputs.classes):
        chosen = order[best[order] == number][:per_class]
        for unit in chosen:
            rows.append((layer, unit, name, shares[unit, number], entropies[unit], images.shape[1]))
            listed += [(layer, unit, place, row) for place, row in enumerate(images[unit], start=1)]
        faces = [inputs.pixels[images[unit]].astype(np.float32).mean(axis=0).round() for unit in chosen]
        captions = [(f"{name}  {shares[unit, number]:.0%}", f"neuron {unit}") for unit in chosen]
        cells.append([(face / 255, *text) for face, text in zip(faces, captions, strict=True)])
    if not rows:
        raise UserError(
            f"layer '{layer}': each of its {len(shares)} neurons gives every image the same response; choose another "
            "layer, or a trained network"
        )
    table = pd.DataFrame(rows, columns=["layer", "unit", "class", "share", "entropy_nats", "pictures"])
    pictures = pd.DataFrame(listed, columns=["layer", "unit", "place", "picture"])
    summary = (
        f"Each image is the mean of the {images.shape[1]} faces with the highest response of one neuron of layer "
        f"{layer}; above it are the commonest class among these faces and its share."
    )
    if without := [name for name, column in zip(inputs.classes, cells, strict=True) if not column]:
        summary += f" No neuron has these as its commonest class: {', '.join(without)}."
    figure = image_grid(list(zip_longest(*(column for column in cells if column))))
    title = "Mean faces of the strongest responses"
    return AnalysisResult("mean-faces", title, summary, table, figure, table, {"pictures": pictures})
