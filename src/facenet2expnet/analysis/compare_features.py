"""The features of several networks side by side: from net to net, identity gives way to expression."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from facenet2expnet.analysis.inputs import AnalysisInput
from facenet2expnet.analysis.layers import hidden_layer, layer_features
from facenet2expnet.analysis.result import AnalysisResult
from facenet2expnet.errors import UserError
from facenet2expnet.report.figures import INK, QUIET, new_figure, short, style

MARKERS = "os^DvPX<>p"
COLOURS = (
    "#0b4f8a", "#d55e00", "#009e73", "#b5408a", "#e0a800", "#2a2a2a", "#56b4e9", "#7a3b00", "#8a8a8a", "#8c8c00",
)  # fmt: skip
"""Used in turn with `MARKERS`, every second one hollow, so that groups differ without colour, too."""
LEGEND = 12  # with more groups a legend would hide the figure
DIMENSIONS = 128
FOLDS = 5


def compare_features(inputs: AnalysisInput) -> AnalysisResult:
    """t-SNE of the top hidden layers, coloured by expression and by subject, with silhouettes and linear probes.

    The features are standardised and projected to 50 main axes before t-SNE.

    Args:
        inputs: any networks, and images that, for honest scores, no network was trained on.
    Source: FN2EN, sections I and III-A: face nets hold identity, which expression recognition does not need.
    """
    count, labels = len(inputs.pixels), inputs.labels
    # Unknown names could put one subject on both sides of a fold, so all have to be known.
    subjects, sequences = (
        None if names is None or "" in names.astype(str) else names for names in (inputs.subjects, inputs.sequences)
    )
    groups = {"expression": np.asarray(inputs.classes, dtype=object)[labels]}
    if subjects is not None:
        groups["subject"] = subjects
    tsne = TSNE(2, perplexity=min(30.0, (count - 1) / 3), init="pca", random_state=inputs.seed)
    rows, points, summary = [], [], ""
    for name, model in inputs.nets.items():
        layer = hidden_layer(model)
        features = layer_features(model, inputs.pixels, layer, inputs.crop_px)
        axes = main_axes(features)
        expression = expression_probe(features, labels, subjects, inputs.seed)
        identity = identity_probe(features, subjects, sequences, inputs.seed)
        placed = tsne.fit_transform(axes)
        points.append(pd.DataFrame({"network": name, "x": placed[:, 0], "y": placed[:, 1], **groups}))
        summary = f"{count:,} images. Expression probe: {expression.summary} Identity probe: {identity.summary}"
        rows.append(
            {
                "network": name,
                "layer": layer,
                "units": features.shape[1],
                "expression_probe": expression.accuracy,
                "expression_chance": expression.chance,
                "identity_probe": identity.accuracy,
                "identity_chance": identity.chance,
                "expression_silhouette": silhouette(axes, labels),
                "identity_silhouette": silhouette(axes, subjects),
            }
        )
    table, data = pd.DataFrame(rows), pd.concat(points, ignore_index=True)
    names = {"expression": inputs.classes, "subject": sorted(set(data.get("subject", [])))}
    figure = _figure(data, names, table)
    return AnalysisResult("features", "From identity to expression", summary, table, figure, data)


class Probe(NamedTuple):
    """A linear probe's folds, or why there is none; its accuracy; and the share of the commonest class (chance)."""

    summary: str
    accuracy: float = np.nan
    chance: float = np.nan


def expression_probe(features: np.ndarray, labels: np.ndarray, subjects: np.ndarray | None, seed: int = 0) -> Probe:
    """How well a linear classifier predicts the expression of subjects that it has not seen.

    Args:
        features: (N, U).
        labels: (N,) class numbers.
        subjects: (N,) names, or None if unknown: one subject can then be on both sides, so the score may be too high.
        seed: of the folds.
    """
    if subjects is None:
        folds = min(FOLDS, int(np.bincount(labels)[np.unique(labels)].min()))
        splitter: Any = StratifiedKFold(max(2, folds), shuffle=True, random_state=seed)
        summary = f"{folds} folds stratified by class; subjects are unknown, so the score may be too high."
    else:
        subjects = subjects.astype(str)
        folds = min(FOLDS, len(np.unique(subjects)))
        splitter = GroupKFold(max(2, folds), shuffle=True, random_state=seed)
        summary = f"{folds} subject-independent folds."
    if folds < 2:
        return Probe("none, since there is one subject only, or one image of a class.")
    return _probe(features, labels, splitter, subjects, summary)


def identity_probe(
    features: np.ndarray, subjects: np.ndarray | None, sequences: np.ndarray | None, seed: int = 0
) -> Probe:
    """How well a linear classifier predicts the subject of sequences that it has not seen.

    Args:
        features: (N, U).
        subjects: (N,) names, or None if unknown. Those with a single sequence are left out.
        sequences: (N,) names within the subject, or None if unknown: images are then held out, and neighbouring frames
            of one video make the score too high.
        seed: of the folds.
    """
    if subjects is None:
        return Probe("none, since subjects are unknown.")
    names, held_out = subjects.astype(str), "images" if sequences is None else "sequences"
    numbers = np.arange(len(names)) if sequences is None else sequences
    groups = np.array([f"{name}\n{number}" for name, number in zip(names, numbers, strict=True)])
    counts = {name: len(np.unique(groups[names == name])) for name in np.unique(names)}
    kept = sorted(count for count in counts.values() if count >= 2)
    if len(kept) < 2:
        return Probe(f"none, since fewer than two subjects have two {held_out}.")
    folds = min(FOLDS, kept[len(kept) // 2])
    summary = f"{folds} folds that hold out {held_out} of the same {len(kept)} subjects."
    if sequences is None:
        summary += " Similar frames can be on both sides, so the score may be too high."
    rows = np.array([counts[name] >= 2 for name in names])
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return _probe(features[rows], names[rows], splitter, groups[rows], summary)


def _probe(features: np.ndarray, targets: np.ndarray, splitter: Any, groups: np.ndarray | None, summary: str) -> Probe:
    """Standardise, project to `DIMENSIONS`, logistic regression; all fitted on the training folds alone."""
    size = max(1, min(DIMENSIONS, features.shape[1], len(features) // 2 - 1))
    classifier = make_pipeline(
        StandardScaler(), PCA(size, random_state=0), StandardScaler(), LogisticRegression(C=0.1, max_iter=300)
    )
    with warnings.catch_warnings():  # a subject with fewer sequences than folds is in some of them only
        warnings.filterwarnings("ignore", message="The least populated class")
        predicted = cross_val_predict(classifier, features, targets, cv=splitter, groups=groups)
    _, counts = np.unique(targets, return_counts=True)
    return Probe(summary, float((predicted == targets).mean()), float(counts.max() / len(targets)))


def main_axes(features: np.ndarray, dimensions: int = 50) -> np.ndarray:
    """Standardise each unit of features (N, U) over the images, and project to the main axes, (N, <= dimensions)."""
    scaled = StandardScaler().fit_transform(features)
    if not scaled.any():
        raise UserError("the features are the same for every image, expected a network that tells them apart")
    size = min(dimensions, features.shape[1], len(features) - 1)
    projected: np.ndarray = PCA(size, random_state=0).fit_transform(scaled)
    return projected


def silhouette(points: np.ndarray, groups: np.ndarray | None) -> float:
    """Mean silhouette of the groups, -1..1, higher if they are apart; NaN if it is not defined."""
    if groups is None or not 2 <= len(np.unique(groups.astype(str))) < len(points):
        return float("nan")
    return float(silhouette_score(points, groups.astype(str)))


def _figure(data: pd.DataFrame, groups: Mapping[str, Sequence[str]], table: pd.DataFrame) -> Figure:
    """Rows: coloured by expression, by subject. Columns: networks."""
    kinds = [kind for kind in groups if kind in data]
    with style():
        figure = new_figure(3.1 * len(table) + 1.3, 3.0 * len(kinds) + 0.2)
        grid = figure.subplots(len(kinds), len(table), squeeze=False)
        for line, kind in zip(grid, kinds, strict=True):
            score = "identity" if kind == "subject" else kind
            for axes, row in zip(line, table.to_dict("records"), strict=True):
                _scatter(axes, data[data["network"] == row["network"]], kind, groups[kind])
                probe = row[f"{score}_probe"]
                label = f"probe {probe:.0%}, " if np.isfinite(probe) else ""
                label += f"silhouette {row[f'{score}_silhouette']:+.2f}"
                axes.set_xlabel(label, fontsize=8.5, color=QUIET)
            line[0].set_ylabel(f"by {kind}", fontsize=9.5, color=INK)
            if len(groups[kind]) <= LEGEND:
                line[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, handletextpad=0.2)
        for axes, row in zip(grid[0], table.to_dict("records"), strict=True):
            axes.set_title(f"{short(row['network'], 28)}: {row['layer']}", fontsize=9)
    return figure


def _scatter(axes: Axes, points: pd.DataFrame, kind: str, names: Sequence[str]) -> None:
    """Draw each group with a colour, a marker and a filling of its own, as far as they go."""
    size, edge = (20, 1.0) if len(points) <= 500 else (9, 0.6)
    for number, name in enumerate(names):
        group, colour = points[points[kind] == name], COLOURS[number % len(COLOURS)]
        marker = MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]
        look: dict[str, Any] = {
            "marker": marker,
            "facecolors": "none" if number % 2 else colour,
            "edgecolors": colour,
        }
        axes.scatter(group["x"], group["y"], s=size, linewidths=edge, label=short(name, 16), **look)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
