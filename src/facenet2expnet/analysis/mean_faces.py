"""Mean faces: what a neuron of the top hidden layer responds to, Figs. 4 and 5 of the paper."""

from __future__ import annotations

from itertools import zip_longest

import numpy as np
import pandas as pd

from facenet2expnet.analysis.inputs import AnalysisInput
from facenet2expnet.analysis.layers import hidden_layer
from facenet2expnet.analysis.result import AnalysisResult, image_grid
from facenet2expnet.analysis.top_activations import default_top, label_entropy, top_activations
from facenet2expnet.errors import UserError

PAPER_FACES = 30
"""Faces averaged for the paper's 1,308 images: our choice; the paper says "high response" and gives no number."""


def mean_faces(
    inputs: AnalysisInput, *, layer: str = "", per_class: int = 2, top: int | None = None
) -> AnalysisResult:
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
        summary += f" No neuron has {', '.join(without)} as its commonest class."
    figure = image_grid(list(zip_longest(*(column for column in cells if column))))
    title = "Mean faces of the strongest responses"
    return AnalysisResult("mean-faces", title, summary, table, figure, table, {"pictures": pictures})
