"""fn2en predict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    """Predict the expressions of faces in images: prints a table, and writes it to a file with --out.

    Example: fn2en predict runs/mine holiday/ --out faces.csv
    """
    from facenet2expnet.cli import console
    from facenet2expnet.errors import UserError
    from facenet2expnet.predict.recognizer import Recognizer
    from facenet2expnet.training.device import choose_device

    if out:
        check_table_name(out)
    recognizer = Recognizer.load(model, choose_device(device))
    with console.progress(quiet) as display:
        found = recognizer.predict(images, centre_crop=centre_crop, progress=display.of("images"))
    for skipped in found.skipped:
        print(f"skipped {skipped.image}: {skipped.reason}")
    if not len(found):
        raise UserError(f"none of the {len(found.skipped)} images could be used")
    table = found.table()
    if not quiet or not out:
        _print_predictions(table)
    if out:
        write_table(table, out)
        print(f"{len(table)} rows written to {out}")
        write_skipped_beside(found.skipped, out)


def check_table_name(path: Path) -> None:
    """Raise UserError, before any work, if a table can't be written to a file of this name."""
    from facenet2expnet.errors import UserError

    if path.suffix.lower() not in (".csv", ".json", ".parquet"):
        raise UserError(f"{path}: expected a name that ends in .csv, .json or .parquet")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table in the format of its file name's ending."""
    from facenet2expnet.files import atomic_path

    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".csv":
            table.to_csv(temporary, index=False)
        elif path.suffix.lower() == ".json":
            table.to_json(temporary, orient="records", indent=1, force_ascii=False)
        else:
            table.to_parquet(temporary, index=False)


def write_skipped_beside(skipped: Sequence[Skipped], table: Path) -> None:
    """Write the list of skipped images beside the table, if there are any."""
    from facenet2expnet.data.pictures import write_skipped

    if skipped:
        path = table.with_name(f"{table.stem}.skipped.csv")
        write_skipped(skipped, path)
        print(f"{len(skipped)} images skipped, listed in {path}")


def _print_predictions(table: pd.DataFrame) -> None:
    from rich.table import Table

    from facenet2expnet.cli import console

    classes = [column for column in table.columns if column.startswith("p_")]
    shown = Table("image", "predicted", *(name.removeprefix("p_") for name in classes))
    for _, row in table.head(SHOWN).iterrows():
        shown.add_row(str(row["image"]), str(row["predicted"]), *(f"{row[name]:.0%}" for name in classes))
    console.out.print(shown)
    if len(table) > SHOWN:
        print(f"... and {len(table) - SHOWN} more; --out writes all of them")
