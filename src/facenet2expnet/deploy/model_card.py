"""The model card of a model folder, as the hub shows it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from facenet2expnet.crop import CropContract
from facenet2expnet.files import read_json
from facenet2expnet.predict.fetch import ONNX
from facenet2expnet.predict.model_folder import CARD, WEIGHTS

RUN, METRICS = "run.json", "metrics.json"
"""Files of a run folder, with its data and checks, and with the scores of its methods over folds and seeds."""

SPREADS = {"folds": "std", "seeds": "std_over_seeds"}
"""What a standard deviation in `metrics.json` is over, and its key."""

RESULTS = ("accuracy", "balanced_accuracy", "expected_calibration_error")
"""What is shown of each test in `results` of `model.json`."""

DESCRIPTIONS = {
    WEIGHTS: "the weights",
    CARD: "classes, crop contract, recipe, training data, versions and hashes",
    ONNX: "the same network for ONNX Runtime: uint8 crops in, probabilities out",
}


def hub_licence(text: str) -> bool:
    """Whether a licence is written as the hub names licences: apache-2.0, cc-by-nc-4.0, other."""
    return re.fullmatch("[a-z0-9][a-z0-9.-]*", text) is not None


def model_card(folder: Path, repository: str, licence: str | None = None) -> str:
    """Return the model card of a model folder in Markdown, from its `model.json` and from the run that it is part of.

    Args:
        folder: the model folder.
        repository: owner/name.
        licence: of the weights, as the hub names it; by default the one of `model.json`, or "other" if that has none
            or words of its own.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    card = read_json(folder / CARD)
    named = licence or str(card.get("licence", "other"))
    run = _run_of(folder)
    calibration = card.get("calibration", {})
    environment = Environment(
        loader=PackageLoader("facenet2expnet.deploy", ""), undefined=StrictUndefined, trim_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("model_card.md.j2").render(
        repository=repository,
        licence=named if hub_licence(named) else "other",
        version=card.get("versions", {}).get("facenet2expnet", "of unknown version"),
        created=str(card.get("created", "an unknown day"))[:10],
        classes=card["classes"],
        files=[(name, what) for name, what in DESCRIPTIONS.items() if (folder / name).is_file()],
        training=_training(card, run),
        accuracy=_accuracy(card, run),
        crop=_crop(CropContract.from_dict(card["contract"])),
        calibration=(
            f"Probabilities were calibrated with a temperature of {calibration['temperature']:.3f}, fitted on "
            f"{calibration['pictures']:,} pictures that the network was not trained on."
            if {"temperature", "pictures"} <= set(calibration)
            else "Probabilities were not calibrated: a high one can still be wrong."
        ),
        terms=_terms(card, named),
        use=card.get("use", ""),
    )


def _run_of(folder: Path) -> Path | None:
    """The run folder that a model folder is part of."""
    return next((parent for parent in folder.resolve().parents[:4] if (parent / RUN).is_file()), None)


def _training(card: dict[str, Any], run: Path | None) -> list[tuple[str, str]]:
    """Rows of the table on data, protocol and method, as far as they are known."""
    trained, recipe = card.get("trained_on", {}), card.get("recipe", {})
    about = read_json(run / RUN) if run else {}
    data, counts = about.get("manifest", {}), about.get("manifest", {}).get("counts", {})
    rows = {
        "data": trained.get("words") or trained.get("manifest"),
        "pictures trained on": trained.get("pictures"),
        "labelled pictures of the data": ", ".join(f"{name} {count:,}" for name, count in counts.items()),
        "subjects of the data": data.get("subjects"),
        "protocol": card.get("protocol"),
        "checks": " ".join(about.get("checks", [])),
        "method": card.get("method"),
        "recipe": recipe.get("name"),
        "face net": recipe.get("face_net", {}).get("name"),
        "seed": trained.get("seed"),
        "sha256 of the table of pictures": trained.get("sha256"),
    }
    known = {name: value for name, value in rows.items() if value not in (None, "")}
    return [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in known.items()]


def _accuracy(card: dict[str, Any], run: Path | None) -> str:
    """What is known of the accuracy, with its spread over the trainings of the run if there were several."""
    trained, metrics = card.get("trained_on", {}), card.get("metrics") or {}
    found = read_json(run / METRICS) if run and (run / METRICS).is_file() else {}
    scores = found.get("methods", {}).get(card.get("method"), {})
    runs, own = scores.get("runs", []), (trained.get("fold"), trained.get("seed"))
    tested = next((f" of {one['pictures']:,} pictures" for one in runs if (one["fold"], one["seed"]) == own), "")
    sentences = []
    if metrics.get("accuracy") is not None:
        part = f"the held-out part ({trained.get('fold', 'one part')}, {card.get('protocol')})"
        sentences.append(f"This model: {metrics['accuracy']:.1%}{tested} on {part}.")
        others = {name: value for name, value in metrics.items() if name != "accuracy" and isinstance(value, float)}
        sentences += [f"{name.replace('_', ' ')}: {value:.4g}." for name, value in others.items()]
    for test, result in (card.get("results") or {}).items():
        values = [f"{name.replace('_', ' ')} {result[name]:.4g}" for name in RESULTS if name in result]
        sentences.append(f"On {test} ({result['pictures']:,} pictures): {', '.join(values)}.")
    spreads = {name: scores.get(key, {}).get("accuracy") for name, key in SPREADS.items()}
    spread = " and ".join(f"{value:.1%} over {name}" for name, value in spreads.items() if value is not None)
    if spread:
        sentences.append(
            f"Its method in {len(runs)} trainings of this run: {scores['mean']['accuracy']:.1%} in the mean, with a "
            f"standard deviation of {spread}."
        )
    elif sentences:
        sentences.append("It was trained and tested once, so no spread is known.")
    return " ".join(sentences) or "Nothing was held out, or no result was saved: the accuracy is not known."


def _crop(contract: CropContract) -> str:
    """The crop contract in words."""
    if contract.detector == "already-cropped":
        found = "The training pictures were cut-out faces, each taken whole."
        if contract.framing:
            found += f" Photographs are cut like them, by the face box of {contract.framing.detector}."
    else:
        found = f"The {contract.choice} face that {contract.detector} finds is cut out (template: {contract.template})."
    return (
        f"{found} It becomes a square of {contract.stored_px} px, 8-bit RGB, and the centre {contract.crop_px} px are "
        "classified."
    )


def _terms(card: dict[str, Any], licence: str) -> str:
    """What is known of the terms of use."""
    net = card.get("recipe", {}).get("face_net", {}).get("name", "its face net")
    named = f"The weights are under {licence}" if hub_licence(licence) else f"Licence of the weights: {licence}"
    named = "No licence was named for these weights" if licence == "other" else named
    data = card.get("trained_on", {}).get("manifest", "unknown")
    return (
        f"{named.removesuffix('.')}. The code of facenet2expnet is under Apache-2.0. The weights have learned from "
        f"pictures ({data}) and from a face net ({net}), and the terms of both may bind you."
    )
