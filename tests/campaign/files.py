"""Damaged tables, recipes, models, stores, splits, runs and ONNX files: each ends in a result or a UserError."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import tiny
from campaign.mutations import ANY, Mutation, Rng, change_json, change_lines
from campaign.trials import Attempt
from facenet2expnet import claims, recipes
from facenet2expnet.crop import CropContract
from facenet2expnet.data import sources
from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.data.splits import choose, read_splits, write_splits
from facenet2expnet.data.table import read_csv
from facenet2expnet.experiment.compare import compare
from facenet2expnet.experiment.evaluate import evaluate
from facenet2expnet.experiment.status import read_status
from facenet2expnet.faces.store import FaceStore, prepare
from facenet2expnet.labels import FERPLUS_VOTES
from facenet2expnet.nets.face.weights import read_state_dict
from facenet2expnet.predict.model_folder import save_model
from facenet2expnet.predict.recognizer import Recognizer
from facenet2expnet.predict.sources import check_sources, expand
from facenet2expnet.report.page import write_report

TEXTS = (*ANY, change_lines, change_lines, change_lines, change_lines)
JSONS = (*ANY[:3], *[change_json] * 9)


@dataclass(frozen=True)
class Kind:
    """A kind of file: the folder that is copied, the file in it that is damaged, and what then uses it."""

    name: str
    folder: str
    file: str
    ways: tuple[Mutation, ...]
    use: Callable[[Path], object]
    every: int = 1
    """It has its turn in one of so many rounds, as it is slow."""


FACES = np.stack([face[4:36, 4:36] for face in tiny.faces(2)])


def _prediction(path: Path) -> None:
    found = Recognizer.load(path, "cpu").predict(list(FACES), faces="whole-image")
    assert len(found) == 2
    assert not found.skipped


def _dataset(path: Path) -> None:
    manifest = read_manifest(path)
    assert len(manifest) > 0
    assert len(manifest.paths) == len(manifest.labels) == len(manifest.groups)
    choose(manifest, "auto", 2)


def _fer2013(path: Path) -> None:
    sources.get("fer2013").read(path, labels="ferplus")


def _fer2013_pictures(path: Path) -> None:
    source = sources.get("fer2013")
    assert source.pictures is not None
    assert list(source.pictures(path) or ())


def _resumed(path: Path) -> None:
    shutil.rmtree(path / "analyses", ignore_errors=True)
    compare(path.parent / "faces", recipe=tiny.tiny_recipe(), out=path, resume=True, **RUN)


RUN = {"folds": 2, "methods": ("scratch",), "device": "cpu", "threads": 1}

CONTRACT = CropContract(stored_px=40, crop_px=32)

KINDS = (
    Kind("a manifest", "faces", "labels.csv", TEXTS, lambda f: _dataset(f / "labels.csv")),
    Kind("a saved manifest", "store", "manifest.csv", TEXTS, lambda f: read_manifest(f, need_pictures=False)),
    Kind("a manifest's JSON", "store", "manifest.json", JSONS, lambda f: read_manifest(f, need_pictures=False)),
    Kind("a Parquet table", "faces", "labels.parquet", ANY, lambda f: _dataset(f / "labels.parquet")),
    Kind("a mapping of labels", "faces", "renamed.csv", TEXTS,
         lambda f: read_manifest(f / "labels.csv", merge_labels=f / "renamed.csv")),
    Kind("a list of pictures", "faces", "list.txt", TEXTS,
         lambda f: [*expand(check_sources([str(f / "list.txt")]))]),
    Kind("a recipe", "others", "recipe.toml", TEXTS, lambda f: recipes.load(f / "recipe.toml")),
    Kind("a model's JSON", "model", "model.json", JSONS, _prediction),
    Kind("a model's weights", "model", "model.safetensors", ANY, _prediction),
    Kind("an ONNX file", "others", "model.onnx", ANY, lambda f: _prediction(f / "model.onnx")),
    Kind("a face net's weights", "others", "weights.pth", ANY, lambda f: read_state_dict(f / "weights.pth")),
    Kind("a split file", "faces", "folds.json", JSONS,
         lambda f: read_splits(f / "folds.json", read_manifest(f / "labels.csv"))),
    Kind("a store's card", "store", "store.json", JSONS, lambda f: FaceStore.open(f)),
    Kind("a store's pixels", "store", "faces.npy", ANY, lambda f: FaceStore.open(f)),
    Kind("a store's journal", "unfinished", "unfinished.jsonl", TEXTS,
         lambda f: prepare(read_manifest(f.parent / "faces" / "labels.csv"), CONTRACT, f)),
    Kind("FER2013's CSV", "fer2013", "fer2013.csv", TEXTS, _fer2013),
    Kind("FER+'s CSV", "fer2013", "fer2013new.csv", TEXTS, _fer2013),
    Kind("FER2013's pixels", "fer2013", "fer2013.csv", TEXTS, _fer2013_pictures),
    Kind("a run's plan", "run", "jobs.json", JSONS, read_status),
    Kind("a claim", "claims", "fold-1%2Fscratch.1.json", JSONS, lambda f: claims.living(f)),
    Kind("a table", "faces", "renamed.csv", TEXTS, lambda f: read_csv(f / "renamed.csv")),
    Kind("a run's record", "run", "run.json", JSONS, write_report, 8),
    Kind("a run's manifest", "run", "manifest.json", JSONS, write_report, 8),
    Kind("a run's metrics", "run", "metrics.json", JSONS, write_report, 8),
    Kind("a run's predictions", "run", "predictions.parquet", ANY, write_report, 8),
    Kind("a run's history", "run", "history.csv", TEXTS, write_report, 8),
    Kind("a run's sizes", "run", "sizes.json", JSONS, write_report, 8),
    Kind("a run's audit", "run", "audit.json", JSONS, write_report, 8),
    Kind("a run's skipped pictures", "run", "skipped.csv", TEXTS, write_report, 8),
    Kind("a run's copies", "run", "copies.csv", TEXTS, write_report, 8),
    Kind("a resumed run's record", "run", "run.json", JSONS, _resumed, 8),
    Kind("a resumed run's job", "run", "fold-1/scratch/predictions.parquet", ANY, _resumed, 8),
    Kind("a resumed run's history", "run", "fold-1/scratch/history.csv", TEXTS, _resumed, 8),
    Kind("a resumed run's model", "run", "fold-1/scratch/model/model.json", JSONS, _resumed, 8),
    Kind("an evaluated table", "model", "model.json", JSONS,
         lambda f: evaluate(f, f.parent / "faces" / "labels.csv", device="cpu"), 8),
)  # fmt: skip


def write_templates(folder: Path, *, runs: bool) -> None:
    """Write a whole file of every kind, small ones; with `runs` also a run of two trainings."""
    faces = tiny.write_faces(folder / "faces", each=6)
    images = [path.relative_to(faces).as_posix() for path in sorted(faces.rglob("*.png"))]
    rows = [(image, image.partition("/")[0], f"S{number % 6}") for number, image in enumerate(images)]
    table = pd.DataFrame(rows, columns=["image", "label", "subject"])
    table.to_csv(faces / "labels.csv", index=False)
    table.to_parquet(faces / "labels.parquet")
    (faces / "renamed.csv").write_text("from,to\nanger,angry\nhappiness,happy\nsurprise,surprise\n")
    (faces / "list.txt").write_text("\n".join(["# pictures", *images]))
    manifest = read_manifest(faces / "labels.csv")
    write_splits(choose(manifest, "auto", 2).splits, manifest, faces / "folds.json")
    prepare(manifest, CONTRACT, folder / "store")
    shutil.copytree(folder / "store", folder / "unfinished")
    card = json.loads((folder / "store" / "store.json").read_text())
    (folder / "unfinished" / "store.json").unlink()
    pixels = np.load(folder / "store" / "faces.npy")
    shard = {"reasons": [""] * 5, "kept": 5, "sha256": _sha256(pixels[:5])}
    journal = "\n".join(map(json.dumps, [card["job"], shard, shard | {"sha256": _sha256(pixels[5:10])}])) + "\n"
    (folder / "unfinished" / "unfinished.jsonl").write_text(journal)
    model, others = tiny.sure_model(), folder / "others"
    save_model(model, folder / "model")
    others.mkdir()
    recipes.save(tiny.tiny_recipe(), others / "recipe.toml")
    torch.save({"state_dict": tiny.TinyFaceNet().state_dict()}, others / "weights.pth")
    if importlib.util.find_spec("onnxscript"):
        from facenet2expnet.deploy import onnx

        content = onnx.with_metadata(onnx.to_graph(model), model, {"precision": "float32"})
        (others / "model.onnx").write_bytes(content)
    claim = {"host": "far", "pid": 1, "namespace": "pid:[1]", "since": "2026-01-01T00:00:00+00:00"}
    (folder / "claims").mkdir()
    (folder / "claims" / "fold-1%2Fscratch.1.json").write_text(json.dumps(claim))
    _write_fer2013(folder / "fer2013")
    if runs:
        compare(faces, recipe=tiny.tiny_recipe(), out=folder / "run", **RUN)  # type: ignore[arg-type]


def _sha256(pixels: np.ndarray) -> str:
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(pixels)).hexdigest()


def _write_fer2013(folder: Path) -> None:
    folder.mkdir()
    usages, rng = ("Training", "PublicTest", "PrivateTest"), np.random.default_rng(0)
    rows = [(n % 7, " ".join(map(str, rng.integers(0, 256, 48 * 48))), usages[n // 3]) for n in range(9)]
    pd.DataFrame(rows, columns=["emotion", "pixels", "Usage"]).to_csv(folder / "fer2013.csv", index=False)
    names = [*FERPLUS_VOTES, "unknown", "NF"]
    numbers = (0, 1, 2, 28638, 28639, 28640, 32298, 32299, 32300)
    votes = [[usages[n // 3], f"fer{numbers[n]:07}.png", *rng.multinomial(10, [0.1] * 10)] for n in range(9)]
    pd.DataFrame(votes, columns=["Usage", "Image name", *names]).to_csv(folder / "fer2013new.csv", index=False)


class Files:
    """Damages a file among whole ones, and uses it."""

    def __init__(self, *, runs: bool = True) -> None:
        tiny.register_tiny()
        torch.set_num_threads(1)
        self.templates = Path(tempfile.mkdtemp(prefix="campaign-"))
        write_templates(self.templates, runs=runs)
        self.kinds = [kind for kind in KINDS if (self.templates / kind.folder / kind.file).is_file()]
        kinds = [kind for kind in self.kinds if kind.every == 1]
        slow = [kind for kind in self.kinds if kind.every > 1]
        self.turns = [one for number in range(max(1, len(slow))) for one in (*kinds, *slow[number : number + 1])]
        _prediction(self.templates / "model")  # libraries load at their first use

    def __call__(self, number: int, rng: Rng, folder: Path) -> str:
        kind = self.turns[number % len(self.turns)]
        for name in {kind.folder, "faces"}:
            shutil.copytree(self.templates / name, folder / name)
        path = folder / kind.folder / kind.file
        content = path.read_bytes()
        for _ in range(int(rng.choice([1, 1, 2]))):
            way = kind.ways[int(rng.integers(len(kind.ways)))]
            with_json = way is change_json and content == path.read_bytes()
            content = way(content, rng) if way is not change_json or with_json else content
        path.write_bytes(content)
        kind.use(folder / kind.folder)
        return kind.name


def make() -> Attempt:
    """Make the attempt within a process."""
    return Files()


def make_quick() -> Attempt:
    """Make the attempt without runs."""
    return Files(runs=False)
