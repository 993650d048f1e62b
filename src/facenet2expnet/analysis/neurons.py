"""Which neurons speak of the classes, and which layer to transfer: Table I and Fig. 3 of the paper.

A neuron is one unit of a layer, a channel at a position. Its K pictures of highest response are counted by class;
the entropy of that histogram is low where the neuron answers to few classes (FN2EN, section III-C).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from facenet2expnet.analysis.layers import layer_shapes
from facenet2expnet.analysis.result import AnalysisResult
from facenet2expnet.analysis.top_activations import top_pictures
from facenet2expnet.errors import UserError
from facenet2expnet.report.figures import INK, RULE, new_figure, short, style

PAPER_TOP = 100
PAPER_PICTURES = 1308
BINS = 40
BEFORE, AFTER = "#d55e00", "#0b4f8a"

ThresholdOf = Literal["both", "before", "each"]


@dataclass(frozen=True, eq=False)
class LayerNeurons:
    """The units of one layer of one network.

    Attributes:
        shape: (C, H, W) or (U,) of the layer.
        histograms: (U, classes), the share of each class among a unit's top pictures.
        entropies: (U,) of those shares, in nats.
        constant: (U,) whether the unit gave every picture the same response.
    """

    shape: tuple[int, ...]
    histograms: np.ndarray
    entropies: np.ndarray
    constant: np.ndarray


def default_top(pictures: int) -> int:
    """K = 100 for the paper's 1,308 pictures of CK+ and more; for a smaller set the same share of it, 5 at least."""
    return min(PAPER_TOP, max(5, round(pictures * PAPER_TOP / PAPER_PICTURES)))


def label_entropy(shares: np.ndarray) -> np.ndarray:
    """H = -sum p log p in nats over the last axis; 0 log 0 is 0. Shares sum to 1 (FN2EN, section III-C)."""
    logs = np.log(shares, out=np.zeros_like(shares, dtype=np.float64), where=shares > 0)
    return np.maximum(-(shares * logs).sum(axis=-1), 0.0)


def layer_neurons(
    model: nn.Module,
    pixels: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    names: Sequence[str],
    crop_px: int,
    top: int,
) -> dict[str, LayerNeurons]:
    """Label histogram and entropy of every unit of some layers, in one pass over the pictures.

    Args:
        model: a face net, fine-tuned or not, or an expression net.
        pixels: (N, S, S, 3) uint8 RGB.
        labels: (N,) class numbers.
        classes: their names.
        names: of the layers.
        crop_px: side of the centre crop.
        top: K, how many pictures a unit.
    Raises:
        UserError: If a picture has no label, a class no picture, a layer does not exist, or a response is not finite.
    """
    shapes = layer_shapes(model, crop_px)
    found = {}
    for name, pictures in top_pictures(model, pixels, labels, classes, names, crop_px, top).items():
        shares = pictures.histograms().cpu().numpy()
        constant = pictures.constant.cpu().numpy()
        found[name] = LayerNeurons(shapes[name], shares, label_entropy(shares), constant)
    return found


def les_threshold(entropies: Mapping[str, np.ndarray]) -> float:
    """The lowest of the layers' mean entropies, in nats (FN2EN, section III-C).

    Args:
        entropies: layer name -> (U,) entropy of every unit, in nats.
    Raises:
        UserError: If there is no layer, a layer has no units, or an entropy is not finite.
    """
    if not entropies:
        raise UserError("expected one layer at least, got none")
    for name, values in entropies.items():
        if not len(values) or not np.isfinite(values).all():
            raise UserError(f"layer '{name}': expected finite entropies of one unit at least, got {values}")
    return min(float(np.mean(values)) for values in entropies.values())


def les_counts(entropies: Mapping[str, np.ndarray], threshold: float) -> dict[str, int]:
    """Low-expressive-score neurons of each layer: units with an entropy below the threshold."""
    return {name: int((values < threshold).sum()) for name, values in entropies.items()}


def table_one(
    before: Mapping[str, LayerNeurons],
    after: Mapping[str, LayerNeurons] | None = None,
    threshold_of: ThresholdOf = "both",
) -> tuple[pd.DataFrame, dict[str, float]]:
    """LES neurons of each layer before fine-tuning, and the signed change after it: the paper's Table I.

    The paper does not say whether each network has a threshold of its own. Its numbers say no: before fine-tuning,
    7.7, 8.0, 8.3 and 6.1 % of the four layers' units are below it on CK+, whereas a layer that gives a network's
    threshold has about half of its units below its own mean. So one threshold serves both networks, the lowest
    mean of all layers of both.

    Args:
        before: layer name -> units of the first network.
        after: the same layers of the second network, or None where there is one network only.
        threshold_of: "both" networks together, "before" alone, or "each" its own.
    Returns:
        One row a layer; network ("before", "after") -> threshold in nats.
    Source: FN2EN, Table I.
    """
    if after is not None and list(before) != list(after):
        raise UserError(
            f"expected the same layers of both networks, got {', '.join(before)} and {', '.join(after)}"
        )
    nets = {"before": before} if after is None else {"before": before, "after": after}
    own = {net: les_threshold({n: v.entropies for n, v in layers.items()}) for net, layers in nets.items()}
    if threshold_of == "both":
        thresholds = dict.fromkeys(own, min(own.values()))
    else:
        thresholds = dict.fromkeys(own, own["before"]) if threshold_of == "before" else own
    counts = {
        net: les_counts({n: v.entropies for n, v in layers.items()}, thresholds[net])
        for net, layers in nets.items()
    }
    rows = []
    for name, units in before.items():
        total = len(units.entropies)
        row = {
            "layer": name,
            "shape": "x".join(map(str, units.shape)),
            "maps": len(units.shape) == 3,
            "units": total,
            "les": counts["before"][name],
            "les_share": counts["before"][name] / total,
            "mean_entropy": float(units.entropies.mean()),
            "constant": int(units.constant.sum()),
        }
        if after is not None:
            row |= {
                "les_change": counts["after"][name] - counts["before"][name],
                "les_share_after": counts["after"][name] / total,
                "mean_entropy_after": float(after[name].entropies.mean()),
                "constant_after": int(after[name].constant.sum()),
            }
        rows.append(row)
    return pd.DataFrame(rows), thresholds


def recommend(table: pd.DataFrame) -> tuple[str, str]:
    """The layer to transfer, and why.

    With two networks: of the layers with maps, the one in which fine-tuning made the most LES neurons. That is the
    paper's argument for pool5 as a rule: such neurons must be many (a rich supervision, hence maps and counts, not
    shares), and must be made by fine-tuning (not the many of pool4 that were there before). On both rows of the
    paper's Table I the rule gives pool5. With one network: the layer with maps that has the largest share of them.

    Returns:
        The layer's name, "" where none can be recommended; a plain sentence.
    Source: FN2EN, section III-C, last paragraph; the rule is our reading.
    """
    maps = table[table["maps"]]
    if maps.empty:
        return "", "No layer with maps was looked at, so none can be recommended."
    if "les_change" not in table:
        best = maps.iloc[int(maps["les_share"].argmax())]
        if best["les"] == 0:
            return "", "No layer with maps has a low-entropy neuron, so none can be recommended."
        return str(best["layer"]), (
            f"{best['layer']}: of the layers with maps it has the largest share of low-entropy neurons "
            f"({best['les_share']:.1%} of {best['units']:,})."
        )
    best = maps.iloc[int(maps["les_change"].argmax())]
    if best["les_change"] <= 0:
        return "", "Fine-tuning made low-entropy neurons in no layer with maps, so none can be recommended."
    vectors = table[~table["maps"]]
    deeper = (
        f", against {vectors['les_change'].max():+,} in the best layer without maps" if len(vectors) else ""
    )
    return str(best["layer"]), (
        f"{best['layer']}: of the layers with maps, fine-tuning made the most low-entropy neurons here, "
        f"{best['les_change']:+,} to {best['les'] + best['les_change']:,} of {best['units']:,}{deeper}."
    )


def entropy_figure(
    before: Mapping[str, LayerNeurons],
    after: Mapping[str, LayerNeurons] | None,
    thresholds: Mapping[str, float],
    classes: int,
    names: tuple[str, str] = ("pre-trained", "fine-tuned"),
) -> tuple[Figure, pd.DataFrame]:
    """Entropy histograms, one panel a layer, both networks overlaid; and the bars as numbers.

    The dashed line is the threshold of LES neurons, the axis ends at the entropy of a uniform histogram.

    Source: FN2EN, Fig. 3.
    """
    edges = np.linspace(0, np.log(classes), BINS + 1)
    edges[-1] += 1e-9
    columns = min(4, len(before))
    lines = -(-len(before) // columns)
    rows = []
    with style():
        figure = new_figure(2.45 * columns + 0.3, 2.15 * lines + 0.55)
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.flat[len(before) :]:
            axes.set_visible(False)
        for axes, name in zip(grid.flat, before, strict=False):
            nets = [before[name]] if after is None else [before[name], after[name]]
            counted = [np.histogram(net.entropies, edges)[0] for net in nets]
            _draw_histograms(axes, edges, counted)
            for value in sorted(set(thresholds.values())):
                axes.axvline(value, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.set_title(f"{short(name)}  ({len(nets[0].entropies):,} units)")
            axes.set(xlabel="entropy, nats", xlim=(0, edges[-1]))
            for network, counts in zip(names, counted, strict=False):
                rows += [(name, network, *bar) for bar in zip(edges, edges[1:], counts, strict=False)]
        for axes in grid[:, 0]:
            axes.set_ylabel("neurons")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        titles = dict(zip(["0", "1"], names, strict=True))
        shown = [titles[label] for label in labels]
        figure.legend(handles, shown, loc="outside upper center", ncols=2)
    return figure, pd.DataFrame(rows, columns=["layer", "network", "from_nats", "to_nats", "neurons"])


def _draw_histograms(axes: Axes, edges: np.ndarray, counted: Sequence[np.ndarray]) -> None:
    """The first as a filled shape, the second as a heavy line over it: told apart in grey, too."""
    looks: list[dict[str, Any]] = [
        {"fill": True, "facecolor": BEFORE, "alpha": 0.45, "linewidth": 0},
        {"fill": False, "edgecolor": AFTER, "linewidth": 1.5},
    ]
    for number, (counts, look) in enumerate(zip(counted, looks, strict=False)):
        axes.stairs(counts, edges, label=str(number), **look)
    axes.grid(axis="y", color=RULE)


def unit_table(networks: Mapping[str, Mapping[str, LayerNeurons]], classes: Sequence[str]) -> pd.DataFrame:
    """Every unit: network, layer, unit, channel, row, column, entropy, its first class and that class's share."""
    parts = []
    for network, layers in networks.items():
        for name, units in layers.items():
            numbers = np.arange(len(units.entropies))
            maps = len(units.shape) == 3
            place = np.unravel_index(numbers, units.shape) if maps else (numbers, numbers * 0, numbers * 0)
            best = units.histograms.argmax(axis=1)
            parts.append(
                pd.DataFrame(
                    {
                        "network": network,
                        "layer": name,
                        "unit": numbers,
                        "channel": place[0],
                        "row": place[1],
                        "column": place[2],
                        "entropy": units.entropies,
                        "class": np.asarray(classes, dtype=object)[best],
                        "share": units.histograms[numbers, best],
                        "constant": units.constant,
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def neurons(
    before: nn.Module,
    after: nn.Module | None,
    pixels: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    crop_px: int,
    layers: Sequence[str],
    top: int | None = None,
    threshold_of: ThresholdOf = "both",
    names: tuple[str, str] = ("pre-trained", "fine-tuned"),
) -> AnalysisResult:
    """Table I, Fig. 3 and the layer to transfer, for a network before and after fine-tuning, or for one network.

    Args:
        before: the first network.
        after: the same architecture, fine-tuned; None to look at one network alone.
        pixels: (N, S, S, 3) uint8 RGB.
        labels: (N,) class numbers.
        classes: their names.
        crop_px: side of the centre crop.
        layers: names of layers that both networks have.
        top: K; None for `default_top`.
        threshold_of: see `table_one`.
        names: what the networks are called.
    Raises:
        UserError: As `layer_neurons`; and if K takes in all pictures, when all units would be equal.
    """
    top = default_top(len(pixels)) if top is None else top
    if top >= len(pixels):
        raise UserError(
            f"top is {top} and there are {len(pixels)} pictures: the top of every unit would be all of them, and all "
            f"units equal; expected a smaller top, such as {default_top(len(pixels))}, or more pictures"
        )
    first = layer_neurons(before, pixels, labels, classes, layers, crop_px, top)
    second = None if after is None else layer_neurons(after, pixels, labels, classes, layers, crop_px, top)
    table, thresholds = table_one(first, second, threshold_of)
    figure, bars = entropy_figure(first, second, thresholds, len(classes), names)
    layer, reason = recommend(table)
    networks = {names[0]: first} if second is None else {names[0]: first, names[1]: second}
    cut = " and ".join(f"{value:.3f}" for value in dict.fromkeys(thresholds.values()))
    if layer and after is None:
        reason += " Give the network before fine-tuning as well for the paper's argument."
    says = (
        f"Entropy of the labels of each neuron's top {top} of {len(pixels):,} pictures; a neuron counts as "
        f"low-entropy (LES) below {cut} nats, the lowest mean of a layer; a uniform histogram has "
        f"{np.log(len(classes)):.3f}. {'Layer to transfer: ' if layer else ''}{reason}"
    )
    return AnalysisResult(
        "neurons",
        "Which neurons speak of the classes",
        says,
        table,
        figure,
        bars,
        {"units": unit_table(networks, classes)},
    )
