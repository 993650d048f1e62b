"""How many neurons of a layer respond to few classes, and which layer to transfer: Table I and Fig. 3 of the paper.

A neuron is one unit of a layer: a channel at a position. The K images of its highest response are counted by class. The
entropy of that histogram is low if the neuron responds to few classes (FN2EN, section III-C).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from facenet2expnet.analysis.inputs import AnalysisInput
from facenet2expnet.analysis.layers import hidden_layer, layer_names, layer_shapes
from facenet2expnet.analysis.result import AnalysisResult
from facenet2expnet.analysis.top_activations import default_top, label_entropy, top_activations
from facenet2expnet.errors import UserError
from facenet2expnet.report.figures import INK, RULE, new_figure, short, style

BINS = 40
LOOKS: tuple[dict[str, Any], ...] = (
    {"fill": True, "facecolor": "#d55e00", "alpha": 0.45, "linewidth": 0},
    {"fill": False, "edgecolor": "#0b4f8a", "linewidth": 1.5},
)
"""The network before fine-tuning is a filled shape, the one after it a heavy line, so that they differ in grey, too."""


def neurons(
    inputs: AnalysisInput, layers: Sequence[str] | None = None, top: int | None = None
) -> AnalysisResult:
    """Table I, Fig. 3 and the layer to transfer, for a network before and after fine-tuning, or for one network.

    Args:
        inputs: the network before fine-tuning, then the one after it; or one network.
        layers: names of layers that the networks have; None for `default_layers`.
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
        summary += (
            "To choose the layer to transfer, give the network before fine-tuning and the one after it."
        )
    title = "Neurons that respond to few classes"
    return AnalysisResult(
        "neurons", title, summary, table, figure, bars, {"units": units.drop(columns=["shape", "maps"])}
    )


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
        columns = {
            "network": network,
            "layer": name,
            "shape": "x".join(map(str, shape)),
            "maps": len(shape) == 3,
            "unit": numbers,
            "channel": channel,
            "row": row,
            "column": column,
            "entropy": label_entropy(shares),
            "class": np.asarray(inputs.classes, dtype=object)[best],
            "share": shares[numbers, best],
            "constant": found.constant.cpu().numpy(),
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def table_one(units: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """The low-entropy (LES) neurons of each layer before fine-tuning, and the signed change after it.

    The paper does not say whether each network has a threshold of its own. Its numbers say no: before fine-tuning,
    7.7, 8.0, 8.3 and 6.1 % of the four layers' units are below it on CK+, but a layer that sets its own network's
    threshold has about half of its units below it. So there is one threshold: the lowest mean entropy of a layer, over
    both networks.

    Args:
        units: of `unit_table`, for one network, or for the one before fine-tuning and then the one after it.
    Returns:
        One row a layer; the threshold in nats.
    Source: FN2EN, Table I.
    """
    keys = ["network", "layer"]
    threshold = float(units.groupby(keys)["entropy"].mean().min())
    stats = (
        units.assign(low=units["entropy"] < threshold)
        .groupby(keys, sort=False)
        .agg(
            shape=("shape", "first"),
            maps=("maps", "first"),
            units=("unit", "size"),
            les=("low", "sum"),
            les_share=("low", "mean"),
            mean_entropy=("entropy", "mean"),
            constant=("constant", "sum"),
        )
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

    This is the paper's argument for pool5 as a rule. Such neurons must be many, for a rich supervision: hence maps, and
    counts instead of shares. And fine-tuning must have made them: many of pool4's were there before. On both rows of
    the paper's Table I the rule gives pool5.

    Args:
        table: of `table_one`, for two networks.
    Returns:
        The layer's name, "" if there is none; a sentence.
    Source: FN2EN, section III-C, last paragraph; the rule is our reading.
    """
    maps, vectors = table[table["maps"]], table[~table["maps"]]
    if maps.empty or maps["les_change"].max() <= 0:
        return "", "No layer to transfer: fine-tuning made low-entropy neurons in no layer with maps."
    best = maps.iloc[int(maps["les_change"].argmax())]
    others = (
        f", against {vectors['les_change'].max():+,} in the best layer without maps" if len(vectors) else ""
    )
    return str(best["layer"]), (
        f"Layer to transfer: {best['layer']}. Of the layers with maps, fine-tuning made the most low-entropy neurons "
        f"here, {best['les_change']:+,} to {best['les'] + best['les_change']:,} of {best['units']:,}{others}."
    )


def entropy_figure(units: pd.DataFrame, threshold: float, classes: int) -> tuple[Figure, pd.DataFrame]:
    """Entropy histograms, one panel a layer, the networks overlaid; and the bars as numbers.

    The dashed line is the threshold of LES neurons; the axis ends at the entropy of a uniform histogram.

    Source: FN2EN, Fig. 3.
    """
    edges = np.linspace(0, np.log(classes), BINS + 1)
    edges[-1] += 1e-9
    layers = units["layer"].unique()
    columns = min(4, len(layers))
    lines = -(-len(layers) // columns)
    rows = []
    with style():
        figure = new_figure(2.45 * columns + 0.3, 2.15 * lines + 0.55)
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.flat[len(layers) :]:
            axes.set_visible(False)
        for axes, name in zip(grid.flat, layers, strict=False):
            networks = units[units["layer"] == name].groupby("network", sort=False)["entropy"]
            for (network, entropies), look in zip(networks, LOOKS, strict=False):
                counts = np.histogram(entropies, edges)[0]
                axes.stairs(counts, edges, label=network, **look)
                rows += [(name, network, *bar) for bar in zip(edges, edges[1:], counts, strict=False)]
            axes.axvline(threshold, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.grid(axis="y", color=RULE)
            axes.set_title(f"{short(name)}  ({len(entropies):,} units)")
            axes.set(xlabel="entropy, nats", xlim=(0, edges[-1]))
        for axes in grid[:, 0]:
            axes.set_ylabel("neurons")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure, pd.DataFrame(rows, columns=["layer", "network", "from_nats", "to_nats", "neurons"])
