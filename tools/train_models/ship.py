"""Make trained models ready to ship: seven classes, weights of 8 bits, tested on PublicTest, each with a card.

    python tools/train_models/ship.py runs/models FER2013 PRESS --out src/facenet2expnet/models

The first folder is that of `make.py --out`. Contempt is left out if no model recognises half of the contempt
pictures that were kept for choosing; the other probabilities are then renormalised. FER2013 has few faces of some
classes, and a model answers them still more rarely: the logarithms of the classes' shares in the training part are
subtracted from the scores (Menon et al., 2021, eq. 9), as strongly as costs no accuracy on the pictures kept for
choosing. FER2013 and PRESS are those of benchmarks/shipped.py, which says more of the finished models.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.data.pictures import read_picture
from facenet2expnet.deploy import agreement
from facenet2expnet.deploy.compact import compact, share_weights
from facenet2expnet.deploy.onnx import OPSET, to_graph, with_metadata
from facenet2expnet.experiment.calibration import fit_temperature
from facenet2expnet.experiment.metrics import scores_of_method
from facenet2expnet.experiment.run import now
from facenet2expnet.faces.framing import estimate_framing
from facenet2expnet.faces.prepare import whole_picture
from facenet2expnet.files import atomic_path, write_atomic
from facenet2expnet.nets.classifier import ExpressionClassifier, divide_scores
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.nets.storage import as_int8, from_int8
from facenet2expnet.predict.model_folder import ONNX, WEIGHTS, Model, load_model, save_model
from facenet2expnet.predict.onnx_model import load_onnx
from facenet2expnet.predict.recognizer import Recognizer
from facenet2expnet.predict.scores import class_scores
from facenet2expnet.recipe import SHIPPED_START

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

COMMAND = (
    "python tools/train_models/make.py FER2013 --out runs/models"
    " && python tools/train_models/ship.py runs/models FER2013 PRESS"
)
LICENCE = (
    "other: for research and evaluation. The weights are ours (Apache-2.0), and we claim nothing for the pictures that "
    "they were learned from: FER2013, pictures of third parties found by web search, with no licence statement known "
    "to us; votes FER+ (MIT, Microsoft); face net dlib's ResNet-29 (public domain)."
)
USE = (
    "Not for judging people. An expression is not an emotion. The EU AI Act bans inferring emotions at work and in "
    "education."
)
FRAMED = 400
"""Training pictures in which a face is looked for, to say how tightly they are cut."""
KEPT = ("recipe", "versions", "device", "calibration", "created")
STRENGTHS = np.arange(11) / 10
"""Of the subtracted logarithms; 1 is what a world would ask for in which all classes are equally frequent."""


def without_class(model: Model, left_out: str) -> Model:
    """Return the model without a class: the probabilities of the others keep their ratios."""
    module = model.module
    assert isinstance(module, ExpressionClassifier)
    rows = [number for number, name in enumerate(model.classes) if name != left_out]
    weights = module.state_dict()
    for name in ("net.head.scores.weight", "net.head.scores.bias"):
        weights[name] = weights[name][rows]
    smaller = ExpressionClassifier(ExpNet(len(rows), **module.net.arguments), model.contract.mean, model.contract.scale)
    smaller.load_state_dict(weights)
    return replace(model, module=smaller.eval(), classes=tuple(model.classes[row] for row in rows))


def prior_strength(predictions: pd.DataFrame, shares: pd.Series) -> float:
    """Return the largest of STRENGTHS that costs no accuracy.

    Args:
        predictions: of the pictures kept for choosing; those of other classes are left out.
        shares: class -> its share of the training part.
    """
    own = predictions[predictions["truth"].isin(shares.index)]
    scores = np.log(own[[f"p_{name}" for name in shares.index]].to_numpy())
    truth = shares.index.get_indexer(own["truth"])
    shifted = scores - STRENGTHS[:, None, None] * np.log(shares.to_numpy())
    accuracy = (shifted.argmax(2) == truth).mean(1)
    return float(STRENGTHS[accuracy >= accuracy[0]].max())


def without_prior(model: Model, shares: pd.Series, strength: float, rows: pd.DataFrame, root: Path) -> Model:
    """Subtract the logarithms of the classes' shares from the scores, and calibrate again.

    Args:
        model: what to change.
        shares, strength: see `prior_strength`.
        rows, root: the pictures to calibrate on, and where they lie.
    """
    module = model.module
    assert isinstance(module, ExpressionClassifier)
    weights = module.state_dict()
    prior = torch.tensor(shares[list(model.classes)].to_numpy(), dtype=torch.float32)
    weights["net.head.scores.bias"] -= strength * prior.log()
    rows = rows[rows["label"].isin(model.classes)]
    crops = np.stack([whole_picture(read_picture(root / image), model.contract) for image in rows["image"]])
    scores = class_scores(module, crops, model.contract.crop_px, torch.device("cpu"))
    temperature = fit_temperature(scores, pd.Index(model.classes).get_indexer(rows["label"]))
    divide_scores(module, temperature)
    both = float(model.metadata["calibration"]["temperature"]) * temperature
    calibration = {"temperature": both, "pictures": len(rows), "prior_strength": strength, "prior": shares.to_dict()}
    return replace(model, metadata=model.metadata | {"calibration": calibration})


def rounded(model: Model) -> Model:
    """Round the weights as `save_model(int8=True)` does, so that what is tested is what is shipped."""
    model.module.load_state_dict(from_int8(as_int8(model.module.state_dict())))
    return model


def write_onnx(folder: Path, crops: list[np.ndarray], data: str) -> agreement.Agreement:
    """Write `model.onnx` beside the weights, whose 8 bits it shares, if it answers as PyTorch does.

    Raises:
        UserError: If a probability differs by more than 1e-5.
    """
    model, faces = load_model(folder), np.stack(crops)
    expected = Recognizer(model, "cpu").probabilities(faces)
    graph = compact(to_graph(model))
    found = load_onnx(with_metadata(graph, model, {}), "cpu")(faces)
    measured = agreement.compare(expected, found, np.full(len(faces), -1), data)
    agreement.check_same(measured)
    record: dict[str, Any] = {"precision": "int8-weights", "agreement": measured.to_dict(), "opset": OPSET}
    record["shares"] = {WEIGHTS: sha256((folder / WEIGHTS).read_bytes()).hexdigest()}
    with atomic_path(folder / ONNX) as path:
        path.write_bytes(share_weights(with_metadata(graph, model, record), folder / WEIGHTS))
        if not np.array_equal(load_onnx(path, "cpu")(faces), found):
            raise ValueError(f"{folder / ONNX}: does not answer alike with the shared weights")
    return measured


def recall(predictions: pd.DataFrame, name: str) -> float:
    """Return the share of a class that is recognised."""
    own = predictions[predictions["truth"] == name]
    return float((own["predicted"] == name).mean())


def results(rows: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return what the card says of a test."""
    scores = scores_of_method(rows, classes)
    found = {"pictures": len(rows), "accuracy": scores["pooled"]["accuracy"]}
    found |= {
        name: scores["pooled"][name]
        for name in ("balanced_accuracy", "negative_log_likelihood", "expected_calibration_error")
    }
    return found | {"recall": {own["class"]: own["recall"] for own in scores["per_class"] if own["pictures"]}}


def card(name: str, metadata: dict[str, Any], classes: tuple[str, ...]) -> str:
    """Return the model's card as Markdown."""
    classes_text = ", ".join(classes)
    lines = ["---", "license: other", "tags: [facial-expression-recognition]", "---", "", f"# {name}", ""]
    lines += [f"An expression net of {metadata['parameters']:,} weights: {classes_text}.", ""]
    lines += [f"**Data.** {metadata['trained_on']['words']}", "", f"**Licence.** {metadata['licence']}", ""]
    strength = metadata["calibration"]["prior_strength"]
    lines += [
        f"**Scores.** {strength} of the logarithms of the classes' shares in the training part are subtracted.",
        "",
    ]
    lines += [f"**Use.** {metadata['use']}", ""]
    lines += ["| test | pictures | accuracy, % | macro recall, % | calibration error, % |", "|---|---:|---:|---:|---:|"]
    for test, found in metadata["results"].items():
        numbers = [found[key] for key in ("accuracy", "balanced_accuracy", "expected_calibration_error")]
        lines.append(f"| {test} | {found['pictures']:,} | {' | '.join(f'{100 * number:.1f}' for number in numbers)} |")
    by_class = metadata["results"][TEST]["recall"]
    lines += ["", "| class | recall on PublicTest, % |", "|---|---:|"]
    lines += [f"| {own} | {100 * by_class[own]:.1f} |" for own in classes if own in by_class]
    lines += ["", f"Made by: `{metadata['command']}`. More in MODEL_CARD.md and docs/results.md.", ""]
    return "\n".join(lines)


TEST = "FER2013 PublicTest, FER+ majority"


def main() -> None:
    """Read the options; convert, test and write both models."""
    import shipped
    from make import MODELS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("fer2013", type=Path, metavar="FER2013")
    parser.add_argument("press", type=Path, metavar="PRESS")
    parser.add_argument("--out", type=Path, default=ROOT / "src/facenet2expnet/models")
    given = parser.parse_args()
    work = given.run.with_name(given.run.name + ".shipped")
    manifest = read_manifest(given.run.with_name(given.run.name + ".data") / "manifest.csv")
    parts = manifest.table["split"].value_counts().to_dict()
    faces, photos = shipped.public_test(given.fer2013, work), shipped.press_photos(given.press, work)
    trained = pd.read_csv(given.run / "table.csv")
    folders = trained.loc[trained["method"] == "fn2en", "folder"].tolist()
    chosen_by = [pd.read_parquet(given.run / folder / "predictions.parquet") for folder in folders]
    found = [recall(predictions, "contempt") for predictions in chosen_by]
    for name, share in zip(MODELS, found, strict=True):
        print(f"{name}: {share:.0%} of the contempt pictures kept for choosing are recognised")
    for name, folder, predictions in zip(MODELS, folders, chosen_by, strict=True):
        model = load_model(given.run / folder / "model")
        if max(found) < 0.5:
            model = without_class(model, "contempt")
        labels = manifest.table.loc[manifest.table["split"] == "train", "label"]
        shares = labels[labels.isin(model.classes)].value_counts(normalize=True)
        strength = prior_strength(predictions, shares)
        print(f"{name}: {strength} of the logarithms of the classes' shares are subtracted")
        to_calibrate = manifest.table[manifest.table["split"] == "valid"]
        model = without_prior(model, shares, strength, to_calibrate, manifest.root)
        learned = manifest.table.loc[manifest.table["split"] == "train", "image"].sample(FRAMED, random_state=0)
        pixels = np.stack([whole_picture(read_picture(manifest.root / image), model.contract) for image in learned])
        contract = replace(model.contract, framing=estimate_framing(pixels, np.arange(FRAMED), sample=FRAMED))
        model = rounded(replace(model, contract=contract))
        recognizer = Recognizer(model, "cpu")
        crops = [whole_picture(read_picture(faces.root / image), contract) for image in faces.table["image"]]
        own = shipped.predict(recognizer, crops, faces.table["image"], faces.table["label"], method=name)
        press = shipped.measure_press(recognizer, photos, first=True)[0]
        calibration = model.metadata["calibration"]
        words = (
            f"{parts['train']:,} pictures of FER2013's Training part with the shares of FER+'s votes; calibrated on "
            f"{calibration['pictures']:,} others. None of PublicTest, PrivateTest, or copies of PublicTest's."
        )  # fmt: skip
        metadata: dict[str, Any] = {key: model.metadata[key] for key in KEPT if key in model.metadata}
        metadata["recipe"]["expnet"]["start"] = SHIPPED_START  # whatever its path was
        metadata |= {
            "method": "fn2en", "command": COMMAND,
            "trained_on": {"manifest": manifest.name, "sha256": manifest.sha256(), "words": words, **parts},
            "parameters": sum(value.numel() for value in model.module.parameters()), "licence": LICENCE, "use": USE,
            "results": {TEST: results(own, model.classes),
                        "press photographs, faces found by MTCNN": results(press, model.classes)},
            "shipped": now(),
        }  # fmt: skip
        save_model(replace(model, metadata=metadata), given.out / name, int8=True)
        print(*write_onnx(given.out / name, crops, "FER2013 PublicTest").lines(), sep="\n")
        text = card(name, metadata, model.classes)
        write_atomic(given.out / name / "README.md", text.encode())
        print(text)


if __name__ == "__main__":
    main()
