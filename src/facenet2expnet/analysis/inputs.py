"""Networks and labelled pictures to look at, from a run folder or by name; and all analyses of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from facenet2expnet.analysis.layers import class_count, layer_shapes
from facenet2expnet.analysis.result import AnalysisResult
from facenet2expnet.crop import CropContract
from facenet2expnet.data.dataset import load_dataset
from facenet2expnet.data.manifest import Manifest, natural_key, read_manifest
from facenet2expnet.data.pictures import Skipped
from facenet2expnet.data.splits import Split, read_splits
from facenet2expnet.errors import UserError
from facenet2expnet.nets import face
from facenet2expnet.nets.classifier import ExpressionClassifier, FaceClassifier
from facenet2expnet.nets.face import FaceNet
from facenet2expnet.predict.model_folder import CARD, Model, load_model
from facenet2expnet.recipe import split_taps
from facenet2expnet.training.stages import AUTO

PARTS = ("test", "train", "all")
PRE_TRAINED, FINE_TUNED, EXPRESSION = "pre-trained face net", "fine-tuned face net", "expression net"
TITLES = {"fine-tune": FINE_TUNED, "fn2en": EXPRESSION, "scratch": "expression net from scratch"}

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class AnalysisInput:
    """Networks and pictures.

    Attributes:
        nets: what each is called -> the network, on one device.
        pixels: (N, S, S, 3) uint8 RGB.
        labels: (N,) class numbers.
        classes: their names, in the order of the networks' scores.
        subjects: (N,) or None.
        sequences: (N,) names within the subject, or None.
        crop_px: side of the networks' crop.
        tap: the face net's layer that stage 1 regressed on; empty where no expression net says so.
        says: which pictures these are, a plain sentence.
        fine_tuned: whether the expression net's teacher was fine-tuned; otherwise it was the face net as it came.
    """

    nets: dict[str, nn.Module]
    pixels: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    subjects: np.ndarray | None
    sequences: np.ndarray | None
    crop_px: int
    tap: str
    says: str
    fine_tuned: bool = True

    @property
    def teacher(self) -> str:
        """What the face net is called that the expression net learned from."""
        return FINE_TUNED if self.fine_tuned else PRE_TRAINED

    def net(self, name: str) -> nn.Module | None:
        """The network of this name, if it is there."""
        return self.nets.get(name)


def is_run(path: Path) -> bool:
    """Whether a path is a run folder."""
    return (path / "run.json").is_file()


def load_inputs(
    data: Path,
    nets: Sequence[str] = (),
    *,
    fold: str = "",
    part: str = "all",
    pictures: int = 0,
    seed: int = 0,
    device: str = "cpu",
    scratch: bool = False,
    progress: Progress | None = None,
) -> AnalysisInput:
    """Load networks and pictures.

    Args:
        data: a run folder, or labelled pictures: a folder of class folders, a manifest file, a face store.
        nets: model folders, or names of face nets, with a weights file as NAME@FILE; none for those of the run: the
            pre-trained face net, the fine-tuned one, and the expression net.
        fold: of the run; empty for its first.
        part: of the fold, one of `PARTS`.
        pictures: at most so many, drawn at random and in the shares of the classes; 0 for all.
        seed: of the draw.
        device: where the networks go.
        scratch: of a run also its expression net from scratch, where it has one.
        progress: called with how many pictures are read and how many there are.
    Raises:
        UserError: If something named does not exist, networks do not go together, or no picture has a label.
    """
    data = Path(data)
    if part not in PARTS:
        raise UserError(f"part is '{part}', expected one of {', '.join(PARTS)}")
    if not is_run(data) and not nets:
        raise UserError(f"{data} is no run folder, so there is no network to look at; name one with --net")
    loaded = [_load(name) for name in nets] if nets else list(_nets_of_run(data, fold, scratch))
    models = [model for _, model in loaded if isinstance(model, Model)]
    _check_alike(models)
    manifest = _manifest(data, models)
    manifest, says = _part(data, manifest, fold, part)
    manifest = _fewer(manifest, pictures, seed)
    if isinstance(manifest, Manifest) and not (manifest.labels >= 0).any():
        raise UserError(
            f"{data}: no picture has a label, expected one for each: fill the manifest's label column"
        )
    contract = models[0].contract if models else _contract_of(loaded, manifest)
    dataset = load_dataset(manifest, contract, progress=progress)
    classes = models[0].classes if models else dataset.manifest.classes
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = sorted(set(dataset.manifest.table["label"]) - set(numbers))
    if unknown:
        raise UserError(f"{data}: class '{unknown[0]}' is not one of the network's: {', '.join(classes)}")
    labels = np.array([numbers[name] for name in dataset.manifest.table["label"]], np.int64)
    modules = {
        name: (model.module if isinstance(model, Model) else model).to(device).eval()
        for name, model in _distinct(loaded)
    }
    subjects, sequences = dataset.manifest.subjects, dataset.manifest.sequences
    return AnalysisInput(
        modules, dataset.pixels, labels, tuple(classes), subjects, sequences,
        dataset.contract.crop_px, _tap(models), f"{len(labels):,} pictures: {says}{_left_out(dataset.skipped)}.",
        _fine_tuned(models),
    )  # fmt: skip


def run_all(run: Path, *, fold: str = "", device: str = "cpu", seed: int = 0) -> Iterator[AnalysisResult]:
    """Every analysis of a run that its models allow, with the defaults of the commands.

    Yields:
        Findings in the paper's order. Saliency is left out where Captum is not installed.
    Raises:
        UserError: If the folder is no run's, or a model is damaged.
    """
    import pandas as pd

    from facenet2expnet.analysis.compare_features import features_compared, stage_one_made_visible
    from facenet2expnet.analysis.confusion import confusion
    from facenet2expnet.analysis.deepdraw import deepdraw
    from facenet2expnet.analysis.mean_faces import mean_faces
    from facenet2expnet.analysis.neurons import neurons
    from facenet2expnet.analysis.saliency import saliency
    from facenet2expnet.report.tables import NAMES

    case = load_inputs(run, fold=fold, device=device, seed=seed)
    common: dict[str, Any] = {"crop_px": case.crop_px}
    before, after, student = (case.net(name) for name in (PRE_TRAINED, FINE_TUNED, EXPRESSION))
    shown = (case.pixels, case.labels, case.classes)
    if before is not None and after is not None:
        yield neurons(before, after, *shown, layers=default_layers(before, case.crop_px), **common)
    if student is not None:
        yield mean_faces(student, *shown, **common)
    scored = {name: net for name, net in case.nets.items() if class_count(net)}
    yield deepdraw(scored, case.pixels, range(len(case.classes)), case.classes, **common)
    predictions = Path(run) / "predictions.parquet"
    if predictions.is_file() and len(table := pd.read_parquet(predictions)):
        yield confusion(table, case.classes, names=NAMES)
    tested = load_inputs(run, fold=fold, part="test", device=device, seed=seed, scratch=True)
    if student is not None and has_captum():
        yield saliency(student, tested.pixels, tested.labels, tested.classes, **common)
    yield features_compared(
        tested.nets,
        tested.pixels,
        tested.labels,
        tested.classes,
        tested.subjects,
        tested.sequences,
        seed=seed,
        **common,
    )
    teacher = case.net(case.teacher)
    if student is not None and teacher is not None:
        names = (EXPRESSION, case.teacher)
        yield stage_one_made_visible(
            student, teacher, tested.pixels, teacher_layer=case.tap, names=names, **common
        )


def has_captum() -> bool:
    """Whether saliency can be computed."""
    from importlib.util import find_spec

    return find_spec("captum") is not None


def default_layers(net: nn.Module, crop_px: int) -> list[str]:
    """The last four layers before the scores, as the paper looks at pool4, pool5, fc6 and fc7.

    A face net's layers behind its embedding are passed over: fine-tuning does not reach them.
    """
    names = [name for name in layer_shapes(net, crop_px) if name != "scores"]
    if isinstance(net, FaceClassifier | FaceNet):
        info = net.info if isinstance(net, FaceNet) else net.face_net.info
        names = names[: names.index(info.embedding) + 1]
    return names[-4:]


def _nets_of_run(run: Path, fold: str, scratch: bool) -> Iterator[tuple[str, Model | FaceNet]]:
    """The pre-trained face net, the fine-tuned one and the expression net, as far as the run has them."""
    wanted = ("fine-tune", "scratch", "fn2en") if scratch else ("fine-tune", "fn2en")
    cards = sorted(run.rglob(f"*/model/{CARD}"), key=lambda card: natural_key(card.as_posix()))
    found: dict[str, Model] = {}
    folds = []
    for card in cards:
        method = card.parent.parent.name
        folds.append(card.parent.parent.parent.name)
        if method in wanted and method not in found and fold in ("", folds[-1]):
            found[method] = load_model(card.parent)
            fold = fold or folds[-1]
    if not found:
        named = (
            f"no fold '{fold}' with a model; its folds are {', '.join(dict.fromkeys(folds))}"
            if fold
            else "no model"
        )
        raise UserError(f"{run} has {named}; expected a run of `fn2en compare` or `fn2en train`")
    recipe = next(iter(found.values())).metadata.get("recipe", {}).get("face_net", {})
    if recipe:
        yield PRE_TRAINED, face.load(recipe["name"], recipe.get("weights") or None)
    for method in wanted:
        if method in found:
            yield TITLES[method], found[method]


def _load(reference: str) -> tuple[str, Model | FaceNet]:
    """A model folder, or a face net by name."""
    if Path(reference).exists():
        model = load_model(Path(reference))
        method = str(model.metadata.get("method", ""))
        return TITLES.get(method, method or Path(reference).name), model
    name, _, weights = reference.partition("@")
    try:
        return PRE_TRAINED if not weights else name, face.load(name, weights or None)
    except UserError as error:
        raise UserError(f"'{reference}': no such folder, and as a face net: {error}") from None


def _distinct(loaded: Sequence[tuple[str, Model | FaceNet]]) -> Iterator[tuple[str, Model | FaceNet]]:
    """The same networks; where two have one name, the second is called NAME (2)."""
    seen: dict[str, int] = {}
    for name, model in loaded:
        seen[name] = seen.get(name, 0) + 1
        yield name if seen[name] == 1 else f"{name} ({seen[name]})", model


def _check_alike(models: Sequence[Model]) -> None:
    for model in models[1:]:
        if model.classes != models[0].classes:
            raise UserError(
                f"the networks have different classes: {', '.join(models[0].classes)} and {', '.join(model.classes)}"
            )
        if (
            replace(model.contract, mean=models[0].contract.mean, scale=models[0].contract.scale)
            != models[0].contract
        ):
            raise UserError(
                "the networks want different crops, expected models that were trained on the same faces"
            )


def _manifest(data: Path, models: Sequence[Model]) -> Path | Manifest:
    if is_run(data):
        return read_manifest(data / "manifest.csv")
    if data.suffix.lower() in (".csv", ".parquet"):
        return read_manifest(data, classes=models[0].classes if models else None)
    return data


def _part(data: Path, manifest: Path | Manifest, fold: str, part: str) -> tuple[Path | Manifest, str]:
    """The rows of a fold's part, and what to call them."""
    if part == "all":
        return manifest, "all of the data"
    if not is_run(data) or isinstance(manifest, Path):
        return manifest, f"all of {data.name}"
    split = data / "folds.json"
    folds: list[Split] = read_splits(split, manifest) if split.is_file() else []
    if not folds:
        return manifest, "all of the data, since the run holds nothing out"
    chosen = next((known for known in folds if fold in ("", known.name)), None)
    if chosen is None:
        raise UserError(
            f"{data} has no fold '{fold}'; its folds are {', '.join(known.name for known in folds)}"
        )
    rows = chosen.test if part == "test" else chosen.train
    return manifest.rows(rows), f"the {part} part of fold {chosen.name}"


def _left_out(skipped: Sequence[Skipped]) -> str:
    """How many pictures could not be used, and why."""
    reasons = list(dict.fromkeys(one.reason for one in skipped))
    why = ", ".join(reasons[:3]) + (", …" if len(reasons) > 3 else "")
    return f"; {len(skipped):,} left out ({why})" if skipped else ""


def _fewer(manifest: Path | Manifest, pictures: int, seed: int) -> Path | Manifest:
    """At most so many rows, in the shares of the classes."""
    if isinstance(manifest, Path) or not pictures or len(manifest) <= pictures:
        if isinstance(manifest, Path) and pictures:
            return _fewer(read_manifest(manifest), pictures, seed)
        return manifest
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(manifest))
    order = order[np.argsort(manifest.labels[order], kind="stable")]
    return manifest.rows(np.sort(order[np.linspace(0, len(order) - 1, pictures).round().astype(np.int64)]))


def _contract_of(loaded: Sequence[tuple[str, Model | FaceNet]], manifest: Path | Manifest) -> CropContract:
    """Where no model says how faces are cropped: faces as they were made ready, or whole, at the face net's size."""
    net = loaded[0][1]
    assert isinstance(net, FaceNet)
    made = manifest.contract if isinstance(manifest, Manifest) else None
    side = net.info.input_px
    return replace(made or CropContract(), stored_px=side, crop_px=side)


def _fine_tuned(models: Sequence[Model]) -> bool:
    """Whether the recipe of the models has the face net fine-tuned before it teaches."""
    recipes = [model.metadata.get("recipe", {}).get("face_net", {}) for model in models]
    return all(recipe.get("fine_tuned", True) for recipe in recipes)


def _tap(models: Sequence[Model]) -> str:
    """The layer that stage 1 of an expression net regressed on, by its recipe."""
    for model in models:
        if model.metadata.get("tap"):  # what "auto" stood for
            return str(model.metadata["tap"])
    for model in models:
        recipe = model.metadata.get("recipe", {}).get("face_net", {})
        if recipe.get("tap", AUTO) not in ("", AUTO):
            return split_taps(recipe["tap"])[0]
        if recipe and isinstance(model.module, FaceClassifier):
            return model.module.face_net.info.default_tap
    for model in models:
        recipe = model.metadata.get("recipe", {}).get("face_net", {})
        if recipe and isinstance(model.module, ExpressionClassifier):
            return face.load(recipe["name"], recipe.get("weights") or None).info.default_tap
    return ""
