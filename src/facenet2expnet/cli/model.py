"""fn2en predict."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facenet2expnet.cli.run import Device, Quiet

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from facenet2expnet.data.pictures import Skipped

ModelFolder = Annotated[Path, typer.Argument(help="A model folder, or a run folder with one model.")]
TableFile = Annotated[Path | None, typer.Option("--out", "-o", help="Write the table: .csv, .json or .parquet.")]
SHOWN = 40


def add(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command()(predict)


def predict(
    model: ModelFolder,
    images: Annotated[list[str], typer.Argument(help="Image files, or folders of images.")],
    out: TableFile = None,
    centre_crop: Annotated[
        bool, typer.Option("--centre-crop", help="Use the centre of images in which no face is found.")
    ] = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Predict the expressions of faces in images; print a table, and write it to a file with --out.

    Example: fn2en predict runs/mine holiday/ --out faces.csv
    """
    from facenet2expnet.cli import console
    from facenet2expnet.errors import UserError
    from facenet2expnet.predict.recognizer import Recognizer
    from facenet2expnet.report import tables

    if out:
        check_table_name(out)
    recognizer = Recognizer.load(model, device)
    with console.progress(quiet) as display:
        found = recognizer.predict(images, centre_crop=centre_crop, progress=display.of("images"))
    for skipped in found.skipped:
        print(f"skipped {skipped.image}: {skipped.reason}")
    if not len(found):
        raise UserError(f"none of the {len(found.skipped)} images could be used")
    table = found.table()
    if not quiet or not out:
        console.out.print(tables.to_rich(_as_text(table.head(SHOWN))))
        if len(table) > SHOWN:
            print(f"... and {len(table) - SHOWN} more; --out writes all of them")
    if out:
        write_table(table, found.skipped, out)


def check_table_name(path: Path) -> None:
    """Raise UserError, before any work, if a table can't be written to a file of this name."""
    from facenet2expnet.errors import UserError

    if path.suffix.lower() not in (".csv", ".json", ".parquet"):
        raise UserError(f"{path}: expected a name that ends in .csv, .json or .parquet")


def write_table(table: pd.DataFrame, skipped: Sequence[Skipped], path: Path) -> None:
    """Write a table in the format of its file name's ending, and the list of skipped images beside it."""
    from facenet2expnet.data.pictures import write_skipped
    from facenet2expnet.files import atomic_path

    writers: dict[str, Callable[[Path], Any]] = {
        ".csv": partial(table.to_csv, index=False),
        ".json": partial(table.to_json, orient="records", indent=1, force_ascii=False),
        ".parquet": partial(table.to_parquet, index=False),
    }
    with atomic_path(path) as temporary:
        writers[path.suffix.lower()](temporary)
    print(f"{len(table)} rows written to {path}")
    if skipped:
        beside = path.with_name(f"{path.stem}.skipped.csv")
        write_skipped(skipped, beside)
        print(f"{len(skipped)} images skipped, listed in {beside}")


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Image, predicted class, and the probability of each class in percent."""
    probabilities = table.filter(regex="^p_").map("{:.0%}".format)
    return table[["image", "predicted"]].join(probabilities.rename(columns=lambda name: name.removeprefix("p_")))
