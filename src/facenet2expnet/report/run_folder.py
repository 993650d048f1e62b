"""What a run left behind, read back: everything that a report is made of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from facenet2expnet.errors import UserError


@dataclass(frozen=True)
class RunFolder:
    """The files of a run; what is not there is None or empty, what could not be read is named in `unread`.

    Attributes:
        path: the folder.
        about: run.json.
        root: the folder of the pictures; None when manifest.json is not there.
        classes: class names in the order of the network's outputs.
        predictions: predictions.parquet.
        metrics: metrics.json, or what `summarise` gives for the predictions.
        history: history.csv.
        sizes: sizes.json.
        skipped: skipped.csv, (image, reason) each.
        recipe: recipe.toml, as text.
        audit: audit.json, as it is.
        unread: one sentence a file that is there but can't be read.
    """

    path: Path
    about: dict[str, Any]
    root: Path | None = None
    classes: tuple[str, ...] = ()
    predictions: pd.DataFrame | None = None
    metrics: dict[str, Any] | None = None
    history: pd.DataFrame | None = None
    sizes: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    recipe: str = ""
    audit: Any = None
    unread: list[str] = field(default_factory=list)


def read_run(path: Path) -> RunFolder:
    """Read a run folder; only run.json must be there.

    Raises:
        UserError: If the folder or its run.json is missing or can't be read.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; give the folder of a run, the one that holds run.json")
    if not (path / "run.json").is_file():
        raise UserError(f"{path} holds no run.json; give the folder that `fn2en compare` or `train` wrote")
    unread: list[str] = []
    about = _read(path / "run.json", _json, unread)
    if not isinstance(about, dict):
        raise UserError(f"{path / 'run.json'} can't be read as JSON; the run's folder is damaged")
    predictions = _read(path / "predictions.parquet", pd.read_parquet, unread)
    classes = _classes(about, predictions)
    metrics = _read(path / "metrics.json", _json, unread)
    if metrics is None and predictions is not None:
        metrics = _read(path / "predictions.parquet", lambda _: _summary(predictions, classes), unread)
    skipped = _read(path / "skipped.csv", _text_table, unread)
    sizes = _read(path / "sizes.json", _json, unread)
    manifest = _read(path / "manifest.json", _json, unread)
    root = manifest.get("root") if isinstance(manifest, dict) else None
    return RunFolder(
        path=path,
        about=about,
        root=path / root if root else None,
        classes=classes,
        predictions=predictions,
        metrics=metrics if metrics and metrics.get("methods") else None,
        history=_read(path / "history.csv", _history, unread),
        sizes=[size for size in sizes if isinstance(size, dict)] if isinstance(sizes, list) else [],
        skipped=[] if skipped is None else list(zip(skipped["image"], skipped["reason"], strict=True)),
        recipe=_read(path / "recipe.toml", lambda file: file.read_text("utf-8"), unread) or "",
        audit=_read(path / "audit.json", _json, unread),
        unread=list(dict.fromkeys(unread)),
    )


def _read(path: Path, reader: Any, unread: list[str]) -> Any:
    """What the reader makes of a file; None when it is not there or, noted in `unread`, can't be read."""
    if not path.is_file():
        return None
    try:
        return reader(path)
    except (OSError, ValueError, KeyError, TypeError) as fault:  # pandas, pyarrow and json raise these
        reason = str(fault).splitlines()
        unread.append(f"{path.name} could not be read: {reason[0] if reason else type(fault).__name__}")
        return None


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _text_table(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding_errors="replace")
    return table[["image", "reason"]]


def _history(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, dtype={"method": str, "fold": str, "stage": str}, keep_default_na=True)
    return table[table[["method", "stage", "epoch"]].notna().all(axis=1)]


def _summary(predictions: pd.DataFrame | None, classes: tuple[str, ...]) -> dict[str, Any] | None:
    from facenet2expnet.experiment.metrics import summarise

    return None if predictions is None or predictions.empty else summarise(predictions, classes)


def _classes(about: dict[str, Any], predictions: pd.DataFrame | None) -> tuple[str, ...]:
    named = (about.get("manifest") or {}).get("classes") or []
    if not named and predictions is not None:
        named = [name[2:] for name in map(str, predictions.columns) if name.startswith("p_")]
    return tuple(str(name) for name in named)
