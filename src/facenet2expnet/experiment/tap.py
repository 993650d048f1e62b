"""face_net.tap = "auto": the layer that the paper's neuron analysis recommends, found on the training part alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from facenet2expnet.errors import UserError
from facenet2expnet.files import write_atomic
from facenet2expnet.nets import face
from facenet2expnet.nets.classifier import FaceClassifier
from facenet2expnet.recipe import Recipe
from facenet2expnet.training.stages import AUTO
from facenet2expnet.training.teacher import Note, TrainingPart

RECORD = "tap.json"


def kept_tap(folder: Path) -> str:
    """The layer that `recommended_tap` found before, by `tap.json`; empty where it was not yet asked for."""
    record = folder / RECORD
    return str(json.loads(record.read_text(encoding="utf-8"))["tap"]) if record.is_file() else ""


def check_enough(pictures: int) -> None:
    """Refuse a training part of which the analysis would look at every picture for every neuron.

    Raises:
        UserError: If there are too few pictures to choose a layer by.
    """
    from facenet2expnet.analysis.neurons import default_top

    if pictures <= (top := default_top(pictures)):
        raise UserError(
            f"face_net.tap is '{AUTO}' and the training part has {pictures} pictures, expected more than {top} to "
            "choose a layer by; name a layer"
        )


def recommended_tap(
    part: TrainingPart, tuned: FaceClassifier | None, recipe: Recipe, folder: Path, note: Note
) -> str:
    """The layer to transfer; its reason is told of, and kept beside it in `tap.json`.

    The layers looked at and the rule are those of `fn2en analyse neurons`: the last four layers before the scores, and
    of those with maps the one in which fine-tuning made the most low-entropy neurons, or, without fine-tuning, the
    one with the largest share of them. Where the rule recommends none, the face net's own default is taken.

    Args:
        part: the training part, every picture with a label.
        tuned: the face net fine-tuned on it; None where the teacher is the face net as it came.
        recipe: names the face net, and the crop.
        folder: of tap.json.
        note: told of the layer and of the reason.
    Raises:
        UserError: If there are too few pictures to choose a layer by.
    Source: FN2EN, section III-C.
    """
    from facenet2expnet.analysis.inputs import default_layers
    from facenet2expnet.analysis.neurons import default_top, layer_neurons, recommend, table_one

    check_enough(len(part))
    crop_px, top = recipe.crop.crop_px, default_top(len(part))
    came = face.load(recipe.face_net.name, recipe.face_net.weights or None).to(part.device)
    layers = default_layers(came, crop_px)
    # Classes without a picture in the training part have no say.
    found, labels = np.unique(part.targets.cpu().numpy(), return_inverse=True)
    classes = [str(number) for number in found]
    before, after = (
        None if net is None else layer_neurons(net, part.pixels, labels, classes, layers, crop_px, top)
        for net in (came, tuned)
    )
    assert before is not None
    table, thresholds = table_one(before, after)
    tap, reason = recommend(table)
    if not tap:
        tap = came.info.default_tap
        reason += f" The default of {came.info.name}, {tap}, is taken."
    facts = {
        "tap": tap,
        "reason": reason,
        "pictures": len(part),
        "top": top,
        "threshold_nats": thresholds["before"],
        "layers": json.loads(table.to_json(orient="records")),
    }
    write_atomic(folder / RECORD, json.dumps(facts, indent=2).encode())
    note(f"Layer to transfer, chosen on {len(part):,} pictures of the training part: {reason}")
    return tap
