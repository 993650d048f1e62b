"""A run folder as `fn2en compare` writes it, with numbers from a seeded generator."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from facenet2expnet.experiment.metrics import summarise
from facenet2expnet.labels import EXPRESSIONS

METHODS = ("scratch", "fine-tune", "fn2en")
STAGES = {"scratch": ["scratch"], "fine-tune": ["fine_tune"], "fn2en": ["stage1", "stage2"]}


def _manifest(classes: Sequence[str], per_class: int, subjects: int) -> pd.DataFrame:
    rows = len(classes) * per_class
    table = pd.DataFrame({"label": [classes[i % len(classes)] for i in range(rows)]})
    table["image"] = [f"pictures/{i:04d}.png" for i in range(rows)]
    if subjects:
        table["subject"] = [f"S{i * subjects // rows:03d}" for i in range(rows)]
    return table


def _predictions(
    manifest: pd.DataFrame, classes: Sequence[str], methods: Sequence[str], folds: int, seeds: Sequence[int]
) -> pd.DataFrame:
    rng, rows, parts = np.random.default_rng(7), len(manifest), []
    truth = np.array([list(classes).index(name) for name in manifest["label"]])
    folds_of_rows = [f"{i * folds // rows + 1:02d}" for i in range(rows)]
    for seed, method in product(seeds, methods):
        logits = rng.normal(0, 1.5, (rows, len(classes)))
        logits[np.arange(rows), truth] += 1.0 + 0.5 * METHODS.index(method)
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        part = manifest.rename(columns={"label": "truth"}).assign(fold=folds_of_rows, method=method, seed=seed)
        part["predicted"] = [classes[i] for i in p.argmax(axis=1)]
        parts.append(part.join(pd.DataFrame(p.astype(np.float32), columns=[f"p_{c}" for c in classes])))
    return pd.concat(parts, ignore_index=True)


def _history(methods: Sequence[str], folds: int, seeds: Sequence[int]) -> pd.DataFrame:
    rows = [
        (method, f"{fold + 1:02d}", seed, stage, epoch)
        for method, fold, seed, epoch in product(methods, range(folds), seeds, range(1, 6))
        for stage in STAGES[method]
    ]
    table = pd.DataFrame(rows, columns=["method", "fold", "seed", "stage", "epoch"])
    table["loss"] = np.exp(-table["epoch"] / 4)
    distils = table["stage"] == "stage1"
    table["accuracy"] = (1 - table["loss"]).where(~distils)
    table["r2"] = (1 - table["loss"]).where(distils)
    return table.assign(val_loss=table["loss"] + 0.1, lr=1e-4, seconds=1.5)


def build_run(
    path: Path,
    *,
    classes: Sequence[str] = EXPRESSIONS,
    methods: Sequence[str] = METHODS,
    per_class: int = 30,
    subjects: int = 24,
    folds: int = 10,
    seeds: Sequence[int] = (0,),
    name: str = "sample",
    pictures: bool = True,
    history: bool = True,
) -> Path:
    """Write a whole run folder, audit included, and return its path."""
    path.mkdir(parents=True, exist_ok=True)
    manifest = _manifest(classes, per_class, subjects)
    predictions = _predictions(manifest, classes, methods, folds, seeds)
    if pictures:
        (path / "pictures").mkdir()
        for i, image in enumerate(manifest["image"]):
            Image.new("RGB", (96, 96), (i % 256, 120, 120)).save(path / image)
    known = "The subjects are in groups; each group is tested once."
    note = known if subjects else "Subjects are unknown: the folds are stratified by class."
    rows = [
        {"group": 7, "row": row, "image": f"pictures/{row:04d}.png", "label": "anger", "parts": "train"}
        for row in (1, 99)
    ]
    files: dict[str, Any] = {
        "run.json": {
            "kind": "compare", "command": f"fn2en compare '{name} data' --recipe quick --seed 0", "device": "cpu",
            "created": "2025-03-04T10:20:30+00:00", "versions": {"python": "3.11.9", "torch": "2.13.0"}, "threads": 2,
            "manifest": {
                "name": name, "pictures": len(manifest), "classes": list(classes), "subjects": subjects or None,
                "counts": dict.fromkeys(classes, per_class),
            },
            "protocol": {"name": "groups", "note": note, "folds": folds}, "unused": 3, "methods": list(methods),
            "checks": ["No subject is in two parts of a fold.", "2 copies were taken out of the training side."],
            "seconds": 381.2,
        },
        "manifest.json": {"root": ".", "classes": list(classes), "name": name, "contract": None},
        "metrics.json": summarise(predictions, classes),
        "sizes.json": [
            {"method": m, "parameters": 10_600_000, "megabytes": 42.4, "ms_per_picture": 9.1, "ms_single": 18.0}
            for m in methods
        ],
        "audit.json": {
            "pictures": len(manifest), "checked": ["labels", "identical pictures"],
            "lines": ["2 pictures are copies of one another, all on one side."],
            "tables": {"identical": rows, "near": []},
        },
    }  # fmt: skip
    for file, value in files.items():
        (path / file).write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
    predictions.to_parquet(path / "predictions.parquet", index=False)
    if history:
        _history(methods, folds, seeds).to_csv(path / "history.csv", index=False)
    texts = {
        "skipped.csv": "image,reason\nanger/0007.png,is empty (zero bytes)\nfear/12.jpg,is damaged\n",
        "copies.csv": "split,part,image,kept_image,how\n01,train,anger/9.png,anger/1.png,identical\n",
        "recipe.toml": '[stage1]\nepochs = 15\nloss = "p-norm"\n',
    }
    for file, text in texts.items():
        (path / file).write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Build a run folder with the given classes, methods, folds ... and return its path; no history unless asked."""

    def make(**options: Any) -> Path:
        return build_run(tmp_path / "run", **{"history": False, **options})

    return make
