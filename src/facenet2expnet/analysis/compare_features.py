"""Stage 1 made visible, and the paper's claim measured: identity gives way to expression from net to net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from facenet2expnet.analysis.layers import all_responses, check_labels, hidden_layer, layer_shapes
from facenet2expnet.analysis.probes import expression_probe, identity_probe, reduced, silhouette
from facenet2expnet.analysis.result import AnalysisResult
from facenet2expnet.analysis.similarity import channel_r2, cka_table
from facenet2expnet.errors import UserError
from facenet2expnet.report.figures import INK, QUIET, SHADES, ink_on, new_figure, short, style

Projection = Literal["tsne", "umap"]
INSTALL_UMAP = 'pip install "facenet2expnet[umap]"'
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
COLOURS = (
    "#0b4f8a",
    "#d55e00",
    "#009e73",
    "#b5408a",
    "#e0a800",
    "#2a2a2a",
    "#56b4e9",
    "#7a3b00",
    "#8a8a8a",
    "#8c8c00",
)
"""In turn with `MARKERS`, every second one hollow: so groups are told apart without their colours, too."""
LEGEND = 12
"""With more groups than this a legend would hide the picture: subjects then go without one."""
FEWEST = 10


def features_compared(
    models: Mapping[str, nn.Module],
    pixels: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    subjects: np.ndarray | None = None,
    sequences: np.ndarray | None = None,
    *,
    crop_px: int,
    layers: Mapping[str, str] | None = None,
    projection: Projection = "tsne",
    seed: int = 0,
) -> AnalysisResult:
    """The features of networks side by side, coloured by expression and by subject, with silhouettes and probes.

    Args:
        models: what each is called -> the network, such as the pre-trained face net, the fine-tuned one, and the
            expression net.
        pixels: (N, S, S, 3) uint8 RGB; pictures that the networks were not trained on, for honest scores.
        labels: (N,) class numbers.
        classes: their names.
        subjects: (N,) names, or None.
        sequences: (N,) names within the subject, or None.
        crop_px: side of the centre crop.
        layers: network -> the layer whose features are compared; the top hidden layer for a network not named.
        projection: "tsne" or "umap", of the features standardised and projected to 50 main axes.
        seed: of projections and folds.
    Raises:
        UserError: If a picture has no label, a class no picture, there are fewer than ten pictures, or a network
            gives NaN.
    Source: FN2EN, sections I and III-A: face nets hold identity that expression recognition has no use for.
    """
    check_labels(labels, classes, len(pixels))
    if len(pixels) < FEWEST:
        raise UserError(f"expected {FEWEST} pictures or more to compare features on, got {len(pixels)}")
    subjects, sequences = _known(subjects), _known(sequences)
    rows, points, notes = [], {}, []
    for name, model in models.items():
        layer = (layers or {}).get(name) or hidden_layer(model)
        features = all_responses(model, pixels, layer, crop_px)
        axes = reduced(features)
        expression = expression_probe(features, labels, subjects, seed)
        identity = identity_probe(features, subjects, sequences, seed)
        points[name] = _projected(axes, projection, seed)
        notes = [f"Expression: {expression.note}", f"Identity: {identity.note}"]
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
    table = pd.DataFrame(rows)
    groups = {"expression": np.asarray(classes, dtype=object)[labels]}
    if subjects is not None:
        groups["subject"] = subjects
    parts = [
        pd.DataFrame({"network": name, "x": at[:, 0], "y": at[:, 1], **groups}) for name, at in points.items()
    ]
    says = f"Features of {len(pixels):,} pictures. " + " ".join(notes)
    figure = _map_figure(points, groups, classes, table, projection)
    return AnalysisResult(
        "features", "From identity to expression", says, table, figure, pd.concat(parts, ignore_index=True)
    )


def stage_one_made_visible(
    student: nn.Module,
    teacher: nn.Module,
    pixels: np.ndarray,
    *,
    crop_px: int,
    teacher_layer: str,
    names: tuple[str, str] = ("expression net", "fine-tuned face net"),
) -> AnalysisResult:
    """Per-channel R² between the expression net's bridge and the face net's layer, and CKA between all layers.

    Args:
        student: the expression net.
        teacher: the fine-tuned face net.
        pixels: (N, S, S, 3) uint8 RGB, N >= 4; CKA takes 8 N² bytes a layer.
        crop_px: side of the centre crop.
        teacher_layer: that stage 1 regressed on.
        names: of the two.
    Raises:
        UserError: If the layer has not the bridge's shape, or a network gives NaN.
    """
    channels = channel_r2(student, teacher, pixels, crop_px=crop_px, teacher_layer=teacher_layer)
    cka = cka_table(
        student,
        teacher,
        pixels,
        crop_px=crop_px,
        first_layers=list(layer_shapes(student, crop_px)),
        second_layers=list(layer_shapes(teacher, crop_px)),
    )
    alive = channels.dropna()
    weights = alive["variance_share"] / max(alive["variance_share"].sum(), 1e-30)
    summary = pd.DataFrame(
        [
            {
                "teacher_layer": teacher_layer,
                "channels": len(channels),
                "constant_channels": len(channels) - len(alive),
                "r2": float((alive["r2"] * weights).sum()),
                "r2_median": float(alive["r2"].median()),
                "r2_as_is": float((alive["r2_as_is"] * weights).sum()),
                "cka_of_bridge": float(
                    cka[(cka["first"] == "bridge") & (cka["second"] == teacher_layer)]["cka"].iloc[0]
                ),
            }
        ]
    )
    row = summary.iloc[0]
    says = (
        f"Over {len(pixels):,} pictures the bridge explains {row['r2']:.1%} of the variance of {teacher_layer}, each "
        f"channel freely scaled (half of the channels {row['r2_median']:.1%} or more); 0 % is the mean face. "
        f"In its own scale R² is {row['r2_as_is']:.2f}. Stage 2 trains on, so this is what is left of stage 1."
    )
    figure = _similarity_figure(channels, cka, names, teacher_layer)
    return AnalysisResult(
        "stage1",
        "What the expression net has of the face net",
        says,
        summary,
        figure,
        cka,
        {"channels": channels},
    )


def _known(names: np.ndarray | None) -> np.ndarray | None:
    """Names of subjects or sequences; where one of them is unknown, none can be used for honest folds."""
    if names is None or any(str(name) in ("", "nan", "None") for name in names):
        return None
    return names


def _projected(points: np.ndarray, projection: Projection, seed: int) -> np.ndarray:
    """(N, D) -> (N, 2)."""
    if projection == "umap":
        return _umap(points, seed)
    if projection != "tsne":
        raise UserError(f"projection is '{projection}', expected tsne or umap")
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(points) - 1) / 3)
    placed: np.ndarray = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)
    return placed


def _umap(points: np.ndarray, seed: int) -> np.ndarray:
    try:
        from umap import UMAP
    except ImportError:
        raise UserError(
            f"projection 'umap' needs the package umap-learn, which is not here; {INSTALL_UMAP}"
        ) from None
    neighbours = min(15, len(points) - 1)
    placed: np.ndarray = UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1).fit_transform(points)
    return placed


def _map_figure(
    points: Mapping[str, np.ndarray],
    groups: Mapping[str, np.ndarray],
    classes: Sequence[str],
    table: pd.DataFrame,
    projection: str,
) -> Figure:
    """Rows: coloured by expression, by subject. Columns: networks."""
    scores = {row["network"]: row for row in table.to_dict("records")}
    with style():
        figure = new_figure(3.1 * len(points) + 1.3, 3.0 * len(groups) + 0.2)
        grid = figure.subplots(len(groups), len(points), squeeze=False)
        for line, (kind, names) in zip(grid, groups.items(), strict=True):
            order = list(classes) if kind == "expression" else sorted(set(map(str, names)))
            for axes, (network, at) in zip(line, points.items(), strict=True):
                _scatter(axes, at, names.astype(str), order)
                row = scores[network]
                probe, apart = row[f"{_word(kind)}_probe"], row[f"{_word(kind)}_silhouette"]
                if kind == "expression":
                    axes.set_title(f"{short(network, 22)}: {row['layer']}", fontsize=9)
                said = f"probe {probe:.0%}, " if np.isfinite(probe) else ""
                axes.set_xlabel(f"{said}silhouette {apart:+.2f}", fontsize=8.5, color=QUIET)
            line[0].set_ylabel(f"by {kind}", fontsize=9.5, color=INK)
            if len(order) <= LEGEND:
                line[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, handletextpad=0.2)
    return figure


def _word(kind: str) -> str:
    return "identity" if kind == "subject" else kind


def _scatter(axes: Axes, at: np.ndarray, names: np.ndarray, order: Sequence[str]) -> None:
    """Each group with a colour, a marker and a filling of its own, as far as they go."""
    size, edge = (20, 1.0) if len(at) <= 500 else (9, 0.6)
    for number, name in enumerate(order):
        chosen = names == name
        colour = COLOURS[number % len(COLOURS)]
        look: dict[str, Any] = {
            "marker": MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
            "facecolors": "none" if number % 2 else colour,
            "edgecolors": colour,
            "linewidths": edge,
        }
        axes.scatter(at[chosen, 0], at[chosen, 1], s=size, label=short(name, 16), **look)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _similarity_figure(
    channels: pd.DataFrame, cka: pd.DataFrame, names: tuple[str, str], teacher_layer: str
) -> Figure:
    """Left: R² of the channels, sorted. Right: CKA of every pair of layers, darker is more alike."""
    rows, columns = list(dict.fromkeys(cka["first"])), list(dict.fromkeys(cka["second"]))
    matrix = cka["cka"].to_numpy().reshape(len(rows), len(columns))
    with style():
        figure = new_figure(3.4 + 0.46 * len(columns) + 1.6, max(2.9, 0.36 * len(rows) + 1.2))
        left, right = figure.subplots(1, 2, width_ratios=[3.2, 0.46 * len(columns) + 1.2])
        ordered = np.sort(channels["r2"].dropna().to_numpy())[::-1]
        left.fill_between(np.arange(len(ordered)), ordered, color="#0b4f8a", alpha=0.25, linewidth=0)
        left.plot(ordered, color="#0b4f8a")
        left.set(
            ylim=(0, 1), xlabel=f"channels of {short(teacher_layer)}, sorted", ylabel="R², freely scaled"
        )
        left.set_title("bridge against face net")
        left.grid(axis="y")
        edges = np.arange(len(columns) + 1) - 0.5, np.arange(len(rows) + 1) - 0.5
        right.pcolormesh(*edges, np.nan_to_num(matrix), **SHADES)
        for row, column in np.ndindex(*matrix.shape):
            value = matrix[row, column]
            said = f"{value:.2f}" if np.isfinite(value) else "–"
            look: dict[str, Any] = {
                "ha": "center",
                "va": "center",
                "fontsize": 7,
                "color": ink_on(float(value)),
            }
            right.text(column, row, said.replace("-0.00", "0.00"), **look)
        right.set(ylim=(len(rows) - 0.5, -0.5), xlabel=names[1], ylabel=names[0])
        right.set_xticks(range(len(columns)), labels=columns, rotation=45, ha="right", rotation_mode="anchor")
        right.set_yticks(range(len(rows)), labels=rows)
        right.tick_params(length=0)
        right.set_title("CKA between layers")
    return figure
