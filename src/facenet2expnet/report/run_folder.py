"""Read the files of a run folder."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from facenet2expnet.errors import UserError
from facenet2expnet.files import read_json, well_formed
from facenet2expnet.report.tables import as_text

ANALYSES = "analyses"
"""Folder of what `fn2en analyse` saves in a run."""

ORDER = ("neurons", "mean-faces", "deepdraw", "saliency", "features", "stage1")
"""Analyses in the paper's order; the report has a section of its own for confusion matrices."""


@dataclass(frozen=True)
class Analysis:
    """A title, a summary, the figure as a data URI, and the table as text."""

    title: str
    summary: str
    picture: str
    table: pd.DataFrame


@dataclass(frozen=True)
class RunFolder:
    """The files of a run; one that is not there is None or empty. A run that held nothing out has no predictions."""

    path: Path
    metadata: dict[str, Any]  # run.json
    root: Path  # of the pictures
    predictions: pd.DataFrame | None
    metrics: dict[str, Any] | None
    history: pd.DataFrame | None
    sizes: list[dict[str, Any]]
    skipped: pd.DataFrame | None  # image, reason
    copies: pd.DataFrame | None  # split, part, image, kept_image, how
    recipe: str  # recipe.toml
    audit: dict[str, Any] | None
    analyses: list[Analysis]  # in the paper's order


def read_run(path: Path) -> RunFolder:
    """Read a run folder; only run.json is required.

    Raises:
        UserError: If run.json is missing, or a file is damaged.
    """
    path = Path(path)
    if not (path / "run.json").is_file():
        raise UserError(f"{path} holds no run.json; give a folder that `fn2en compare` or `fn2en train` wrote")

    def read(name: str, reader: Callable[[Path], Any], missing: Any = None) -> Any:
        try:
            return reader(path / name) if (path / name).is_file() else missing
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path / name}: can't be read ({reason}); remove it to leave it out") from None

    with well_formed(path / "manifest.json", "remove it to leave it out"):
        root = path / read("manifest.json", read_json, {}).get("root", "")
    read_text = partial(pd.read_csv, dtype=str, keep_default_na=False)
    return RunFolder(
        path=path,
        metadata=read("run.json", read_json),
        root=root,
        predictions=read("predictions.parquet", pd.read_parquet),
        metrics=read("metrics.json", read_json),
        history=read("history.csv", partial(pd.read_csv, dtype={"method": str, "fold": str, "stage": str})),
        sizes=read("sizes.json", read_json, []),
        skipped=read("skipped.csv", read_text),
        copies=read("copies.csv", read_text),
        recipe=read("recipe.toml", lambda file: file.read_text("utf-8"), ""),
        audit=read("audit.json", read_json),
        analyses=[one for name in ORDER if (one := read(f"{ANALYSES}/{name}.txt", _analysis))],
    )


def _analysis(text: Path) -> Analysis:
    """Read the files of an analysis, given its NAME.txt."""
    title, _, summary = text.read_text("utf-8").partition("\n")
    picture = base64.b64encode(text.with_suffix(".svg").read_bytes()).decode("ascii")
    table = as_text(pd.read_csv(text.with_name(f"{text.stem}-table.csv")))
    return Analysis(title, summary.strip(), f"data:image/svg+xml;base64,{picture}", table)
