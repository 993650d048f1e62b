"""Read the files of a run folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from facenet2expnet.errors import UserError


@dataclass(frozen=True)
class RunFolder:
    """The files of a run. A missing file is None or empty; a damaged one is also named in `unread`.

    Attributes:
        path: the folder.
        metadata: run.json.
        root: folder of the pictures; None if manifest.json is missing.
        predictions: predictions.parquet.
        metrics: metrics.json, or the result of `summarise` on the predictions.
        history: history.csv.
        sizes: sizes.json.
        skipped: skipped.csv: image, reason.
        copies: copies.csv: split, part, image, kept_image, how.
        recipe: recipe.toml as text.
        audit: audit.json.
        unread: one sentence for each file that can't be read.
    """

    path: Path
    metadata: dict[str, Any]
    root: Path | None = None
    predictions: pd.DataFrame | None = None
    metrics: dict[str, Any] | None = None
    history: pd.DataFrame | None = None
    sizes: list[dict[str, Any]] = field(default_factory=list)
    skipped: pd.DataFrame | None = None
    copies: pd.DataFrame | None = None
    recipe: str = ""
    audit: dict[str, Any] | None = None
    unread: list[str] = field(default_factory=list)


def read_run(path: Path) -> RunFolder:
    """Read a run folder; only run.json is required.

    Raises:
        UserError: If the folder or its run.json is missing or damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; give a run folder, the one that holds run.json")
    if not (path / "run.json").is_file():
        raise UserError(f"{path} holds no run.json; give a folder that `fn2en compare` or `train` wrote")
    unread: list[str] = []
    read_text = partial(pd.read_csv, dtype=str, keep_default_na=False, encoding_errors="replace")

    def read(name: str, reader: Callable[[Path], Any]) -> Any:
        if not (path / name).is_file():
            return None
        try:
            return reader(path / name)
        except (OSError, ValueError, KeyError, TypeError) as error:  # pandas, pyarrow and json raise these
            unread.append(f"{name} could not be read: {(str(error) or type(error).__name__).splitlines()[0]}")
            return None

    metadata = read("run.json", _json_object)
    if metadata is None:
        raise UserError(f"{path / 'run.json'} can't be read as JSON; the run folder is damaged")
    predictions = read("predictions.parquet", pd.read_parquet)
    metrics = read("metrics.json", _json_object)
    if metrics is None and predictions is not None and len(predictions):
        metrics = read("predictions.parquet", lambda _: _metrics(predictions))
    manifest = read("manifest.json", _json_object) or {}
    return RunFolder(
        path=path,
        metadata=metadata,
        root=path / manifest["root"] if manifest.get("root") else None,
        predictions=predictions,
        metrics=metrics if metrics and metrics.get("methods") else None,
        history=read("history.csv", _history),
        sizes=read("sizes.json", lambda file: json.loads(file.read_text("utf-8"))) or [],
        skipped=read("skipped.csv", partial(read_text, usecols=["image", "reason"])),
        copies=read("copies.csv", read_text),
        recipe=read("recipe.toml", lambda file: file.read_text("utf-8")) or "",
        audit=read("audit.json", _json_object),
        unread=unread,
    )


def _json_object(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text("utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def _history(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, dtype={"method": str, "fold": str, "stage": str})
    return table.dropna(subset=["method", "stage", "epoch", "loss"])


def _metrics(predictions: pd.DataFrame) -> dict[str, Any]:
    from facenet2expnet.experiment.metrics import summarise

    return summarise(predictions, [name[2:] for name in map(str, predictions) if name.startswith("p_")])
