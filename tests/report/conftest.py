"""A run folder as `fn2en compare` leaves it, with invented numbers from a seeded generator."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from facenet2expnet.experiment.metrics import summarise
from facenet2expnet.labels import EXPRESSIONS

METHODS = ("scratch", "fine-tune", "fn2en")
SKILL = {"scratch": 1.5, "fine-tune": 2.3, "fn2en": 2.7}


def _draw_face(number: int, mood: float, side: int = 96) -> Image.Image:
    """A drawn face: enough to see whether the right picture stands in the right place."""
    rng = np.random.default_rng(number)
    skin = tuple(int(v) for v in rng.integers(120, 230, 3))
    picture = Image.new("RGB", (side, side), (235, 235, 235))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((14, 6, 82, 92), fill=skin, outline=(40, 40, 40))
    for x in (34, 62):
        pen.ellipse((x - 6, 34, x + 6, 44), fill="white", outline=(40, 40, 40))
        pen.ellipse((x - 2, 37, x + 2, 41), fill="black")
    pen.arc((34, 58, 62, 78), *((20, 160) if mood > 0.5 else (200, 340)), fill=(120, 20, 20), width=3)
    return picture


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
    rng = np.random.default_rng(7)
    truth = np.array([list(classes).index(name) for name in manifest["label"]])
    rows = len(manifest)
    hard = rng.normal(0, 0.8, rows)
    fold = np.arange(rows) * folds // rows
    parts = []
    for seed in seeds:
        for method in methods:
            logits = rng.normal(0, 1, (rows, len(classes)))
            logits[np.arange(rows), truth] += SKILL.get(method, 2.0) - hard
            logits *= 1.5
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            part = manifest.rename(columns={"label": "truth"}).assign(
                fold=[f"{i + 1:02d}" for i in fold],
                method=method,
                seed=seed,
                predicted=[classes[i] for i in p.argmax(axis=1)],
            )
            parts.append(part.join(pd.DataFrame(p.astype(np.float32), columns=[f"p_{c}" for c in classes])))
    return pd.concat(parts, ignore_index=True)


def _history(methods: Sequence[str], folds: int, seeds: Sequence[int]) -> pd.DataFrame:
    rng = np.random.default_rng(11)
    stages = {
        "scratch": ["scratch"],
        "fine-tune": ["fine_tune"],
        "fn2en": ["stage1", "stage2"],
    }
    rows = []
    for method in methods:
        for fold in range(folds):
            for seed in seeds:
                for stage in stages.get(method, ["stage2"]):
                    for epoch in range(1, 16):
                        fall = np.exp(-epoch / (4 + fold % 3)) + rng.normal(0, 0.01)
                        regress = stage == "stage1"
                        rows.append(
                            {
                                "method": method,
                                "fold": f"{fold + 1:02d}",
                                "seed": seed,
                                "stage": stage,
                                "epoch": epoch,
                                "loss": (0.4 + 0.6 * fall) if regress else (0.1 + 2.0 * fall),
                                "accuracy": np.nan if regress else 1 - 0.85 * fall,
                                "r2": 0.6 * (1 - fall) if regress else np.nan,
                                "lr": 1e-4,
                                "seconds": 1.5,
                            }
                        )
    return pd.DataFrame(rows)


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
        for i, label in enumerate(manifest["label"]):
            _draw_face(i, list(classes).index(label) / len(classes)).save(path / "pictures" / f"{i:04d}.png")
    about: dict[str, Any] = {
        "kind": "compare" if len(methods) > 1 else "train",
        "command": f"fn2en compare '{name} data' --recipe quick --seed 0",
        "created": "2025-03-04T10:20:30.123456+00:00",
        "finished": "2025-03-04T10:26:51+00:00",
        "versions": {"facenet2expnet": "0.1.0", "python": "3.11.9", "torch": "2.13.0"},
        "device": "cpu",
        "threads": 2,
        "manifest": {
            "name": name,
            "sha256": "0" * 64,
            "pictures": len(manifest),
            "classes": list(classes),
            "counts": {label: per_class for label in classes},
            "subjects": subjects or None,
            "skipped": 2,
        },
        "protocol": {
            "name": "subject-groups" if subjects else "stratified",
            "note": f"Subjects are sorted by name and cut into {folds} groups; each group is tested once."
            if subjects
            else "Subjects are unknown: the folds are stratified by class.",
            "folds": folds,
        },
        "methods": list(methods),
        "seconds": 381.2,
    }
    sizes = {
        "scratch": (10_600_000, 42.4, 9.1),
        "fine-tune": (5_500_000, 22.1, 7.4),
        "fn2en": (10_600_000, 42.4, 9.0),
    }
    files: dict[str, Any] = {
        "run.json": about,
        "manifest.json": {"root": ".", "classes": list(classes), "name": name, "contract": None},
        "metrics.json": summarise(predictions, classes),
        "sizes.json": [
            {
                "method": m,
                "parameters": sizes[m][0],
                "megabytes": sizes[m][1],
                "ms_per_picture": sizes[m][2],
                "ms_single": 2 * sizes[m][2],
            }
            for m in methods
            if m in sizes
        ],
        "audit.json": {
            "pictures": len(manifest),
            "checked": ["labels", "identical pictures"],
            "lines": ["2 pictures are copies of one another, all on one side."],
            "tables": {
                "exact": [
                    {"group": 7, "row": row, "image": image, "label": "anger", "parts": "train"}
                    for row, image in enumerate(("pictures/0001.png", "pictures/0099.png"))
                ],
                "near": [],
            },
        },
    }
    for file, value in files.items():
        (path / file).write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
    predictions.to_parquet(path / "predictions.parquet", index=False)
    manifest.to_csv(path / "manifest.csv", index=False)
    if history:
        _history(methods, folds, seeds).to_csv(path / "history.csv", index=False)
    skipped = "image,reason\nanger/0007.png,is empty (zero bytes)\nfear/12.jpg,is damaged or truncated\n"
    (path / "skipped.csv").write_text(skipped, encoding="utf-8")
    recipe = '[stage1]\nepochs = 15\nloss = "normalised"\n\n[stage2]\nepochs = 15\n'
    (path / "recipe.toml").write_text(recipe, encoding="utf-8")
    return path


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Build a run folder with the given classes, methods, folds ... and return its path; no history unless asked."""

    def make(**options: Any) -> Path:
        return build_run(tmp_path / "run", **{"history": False, **options})

    return make
