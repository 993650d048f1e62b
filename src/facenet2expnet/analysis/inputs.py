"""The networks and labelled images that an analysis looks at, and how they are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from facenet2expnet.data.dataset import load_dataset
from facenet2expnet.data.manifest import Manifest, natural_key, read_manifest
from facenet2expnet.data.splits import read_splits, subsample
from facenet2expnet.device import choose_device
from facenet2expnet.errors import UserError
from facenet2expnet.faces.store import is_store
from facenet2expnet.nets import face
from facenet2expnet.nets.face import FaceNet
from facenet2expnet.predict.model_folder import CARD, Model, load_model, locate_model, on_hub

PRE_TRAINED, FINE_TUNED, EXPRESSION = "pre-trained face net", "fine-tuned face net", "expression net"
NAMES = {"fine-tune": FINE_TUNED, "scratch": "expression net from scratch", "fn2en": EXPRESSION}
"""Method of a training -> what its network is called here."""


@dataclass(frozen=True, eq=False)
class AnalysisInput:
    """Networks and labelled images.

    Raises:
        UserError: If an image has no label, or a class no image.
    """

    nets: dict[str, nn.Module]  # by name, all on one device
    pixels: np.ndarray  # (N, S, S, 3) uint8 RGB, aligned faces
    labels: np.ndarray  # (N,) class numbers
    classes: tuple[str, ...]  # two or more, in the order of the networks' scores
    crop_px: int  # side of the networks' crop, at most S
    subjects: np.ndarray | None = None  # (N,) names
    sequences: np.ndarray | None = None  # (N,) names within the subject
    tap: str = ""  # the face net's layer that stage 1 distilled; empty if unknown
    teacher: str = FINE_TUNED  # name of the face net that the expression net learned from
    seed: int = 0  # of everything that an analysis draws at random
    summary: str = ""  # which images these are, a sentence

    def __post_init__(self) -> None:
        classes = ", ".join(self.classes)
        if len(self.labels) != len(self.pixels) or not set(self.labels) <= set(range(len(self.classes))):
            raise UserError(f"expected a label for each of {len(self.pixels)} images, one of {classes}")
        if empty := [name for number, name in enumerate(self.classes) if number not in self.labels]:
            raise UserError(f"class '{empty[0]}' has no image, expected one or more in each of {classes}")

    @property
    def net(self) -> nn.Module:
        """The network of an analysis of one network."""
        if len(self.nets) != 1:
            raise UserError(f"expected one network, got {len(self.nets)}: {', '.join(self.nets)}")
        return next(iter(self.nets.values()))

    def only(self, *names: str) -> AnalysisInput:
        """The same images with those of the named networks that are there, one or more; with all if none is named."""
        nets = {name: net for name, net in self.nets.items() if name in (names or self.nets)}
        if not nets:
            raise UserError(f"the run has no {' and no '.join(names)}; name a network with --net")
        return replace(self, nets=nets)


def load_inputs(
    data: Path,
    nets: Sequence[str] = (),
    *,
    fold: str = "",
    part: str = "all",
    images: int = 0,
    seed: int = 0,
    device: str = "auto",
) -> AnalysisInput:
    """Load networks and labelled images; images without a label are left out.

    Args:
        data: a run folder, or labelled images: a folder of class folders, a manifest file, a face store.
        nets: model folders or hf:owner/name, one or more, and names of face nets, with a weights file as NAME@FILE;
            by default those of the run.
        fold: of the run; empty for its first.
        part: of the run's fold: test or train; or all.
        images: at most this many, drawn at random with the classes in proportion; 0 for all.
        seed: of all random draws.
        device: of the networks: auto, cpu, cuda or mps.
    Raises:
        UserError: If something named does not exist, networks do not fit together, or no image has a label.
    """
    run, compute = (data / "run.json").is_file(), choose_device(device)
    if not run and not nets:
        raise UserError(f"{data} is not a run folder, so there is no network to look at; name one with --net")
    loaded = _named_nets(nets) if nets else _nets_of_run(data, fold)
    models = [net for net in loaded.values() if isinstance(net, Model)]
    if not models or len({(m.classes, replace(m.contract, mean=(0, 0, 0))) for m in models}) > 1:
        raise UserError("expected one model folder or more, all with the same classes and the same crop")
    contract, classes = models[0].contract, models[0].classes
    if is_store(data):
        dataset = load_dataset(data, contract)
        rows, summary = _rows(dataset.manifest, data, fold, part, images, seed)
        manifest, pixels = dataset.manifest.rows(rows), dataset.pixels[rows]
    else:
        manifest = read_manifest(data / "manifest.csv" if run else data, classes=classes)
        rows, summary = _rows(manifest, data, fold, part, images, seed)
        dataset = load_dataset(manifest.rows(rows), contract)
        manifest, pixels = dataset.manifest, dataset.pixels
    if dataset.skipped:
        reasons = ", ".join(dict.fromkeys(skipped.reason for skipped in dataset.skipped))
        summary += f"; {len(dataset.skipped):,} skipped ({reasons})"
    manifest = replace(manifest, classes=classes)
    recipe, pre_trained = models[0].metadata.get("recipe", {}).get("face_net", {}), loaded.get(PRE_TRAINED)
    return AnalysisInput(
        {name: (net.module if isinstance(net, Model) else net).to(compute) for name, net in loaded.items()},
        pixels,
        manifest.labels,
        manifest.classes,
        contract.crop_px,
        manifest.subjects,
        manifest.sequences,
        tap=recipe.get("tap") or (pre_trained.info.default_tap if isinstance(pre_trained, FaceNet) else ""),
        teacher=FINE_TUNED if recipe.get("fine_tuned", True) else PRE_TRAINED,
        seed=seed,
        summary=f"{len(pixels):,} images: {summary}.",
    )


def _nets_of_run(run: Path, fold: str) -> dict[str, Model | FaceNet]:
    """The networks of a run's fold (with several seeds, of the first): the pre-trained face net, and those trained."""
    cards = sorted(run.rglob(f"*/*/model/{CARD}"), key=lambda card: natural_key(card.as_posix()))
    folders = [card.parent.parent for card in cards if card.parent.parent.name in NAMES]
    folds = list(dict.fromkeys(folder.parent.name for folder in folders))
    if not folds or fold not in ("", *folds):
        has = f"no fold '{fold}' with a model; its folds are {', '.join(folds)}" if folds else "no model"
        raise UserError(f"{run} has {has}; expected a run of `fn2en compare` or `fn2en train`")
    of_fold = [folder for folder in folders if folder.parent.name == (fold or folds[0])]
    found = {folder.name: folder for folder in reversed(of_fold)}  # the first of each method stays
    models = {name: load_model(found[method]) for method, name in NAMES.items() if method in found}
    recipe = next(iter(models.values())).metadata["recipe"]["face_net"]
    return {PRE_TRAINED: face.load(recipe["name"], recipe["weights"] or None), **models}


def _named_nets(references: Sequence[str]) -> dict[str, Model | FaceNet]:
    """Model folders and face nets by name; of two with one name the second is called as it was given."""
    nets: dict[str, Model | FaceNet] = {}
    for reference in references:
        net: Model | FaceNet
        if on_hub(reference) or Path(reference).exists():
            net = load_model(locate_model(reference))
            name = NAMES.get(str(net.metadata.get("method")), reference)
        else:
            known, _, weights = reference.partition("@")
            name = reference if weights else PRE_TRAINED
            try:
                net = face.load(known, weights or None)
            except UserError as error:
                raise UserError(f"'{reference}': no such folder, and as a face net: {error}") from None
        nets[reference if name in nets else name] = net
    return nets


def _rows(manifest: Manifest, data: Path, fold: str, part: str, images: int, seed: int) -> tuple[np.ndarray, str]:
    """The rows to look at, and a phrase for them."""
    rows, phrase = np.arange(len(manifest)), "all of the data"
    if part != "all" and (data / "folds.json").is_file():
        splits = read_splits(data / "folds.json", manifest)
        split = next((split for split in splits if fold in ("", split.name)), None)
        if split is None:
            raise UserError(f"{data} has no fold '{fold}'; its folds are {', '.join(s.name for s in splits)}")
        rows, phrase = getattr(split, part), f"the {part} part of fold {split.name}"
    labelled = rows[manifest.labels[rows] >= 0]
    if not len(labelled):
        raise UserError(f"{data}: no image has a label; fill the manifest's label column")
    if len(labelled) < len(rows):
        phrase += f"; {len(rows) - len(labelled):,} left out, since they have no label"
    if 0 < images < len(labelled):
        labelled = subsample(manifest, labelled, images, seed)
    return labelled, phrase
