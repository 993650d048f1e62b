"""fn2en predict, evaluate, nets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facenet2expnet.cli.run import Data, Quiet

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from facenet2expnet.data.pictures import Skipped

ModelFolder = Annotated[Path, typer.Argument(help="A model folder, or a run folder with one model.")]
TableFile = Annotated[
    Path | None, typer.Option("--out", "-o", help="Write the table: .csv, .json or .parquet.")
]
WhereText = Annotated[str, typer.Option("--device", help="cpu, cuda or mps.")]
SHOWN = 40


def add(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command()(predict)
    app.command()(evaluate)
    app.command()(nets)


def predict(
    model: ModelFolder,
    images: Annotated[list[str], typer.Argument(help="Pictures, or folders of pictures.")],
    out: TableFile = None,
    centre_crop: Annotated[
        bool, typer.Option("--centre-crop", help="Use the whole picture where no face is found.")
    ] = False,
    device: WhereText = "cpu",
    quiet: Quiet = False,
) -> None:
    """Tell the expression of faces in pictures: a table on screen, and a file by --out.

    Example: fn2en predict runs/mine holiday/ --out faces.csv
    """
    from facenet2expnet.cli import console
    from facenet2expnet.errors import UserError
    from facenet2expnet.recognize.recognizer import Recognizer

    if out:
        check_table_name(out)
    recognizer = Recognizer.load(model, device)
    with console.progress(quiet) as reporter:
        found = recognizer.predict(
            list(images), missing="centre-crop" if centre_crop else "drop", progress=reporter.faces
        )
    for skipped in found.skipped:
        print(f"left out: {skipped.image}: {skipped.reason}")
    if not len(found):
        raise UserError(f"none of the {len(found.skipped)} pictures could be used")
    table = found.table()
    if not quiet or not out:
        _print_predictions(table)
    if out:
        write_table(table, out)
        print(f"{len(table)} rows written to {out}")
        _write_skipped(found.skipped, out)


def evaluate(
    model: ModelFolder,
    data: Data,
    out: TableFile = None,
    device: WhereText = "cpu",
    quiet: Quiet = False,
) -> None:
    """Test a model on labelled faces.

    Example: fn2en evaluate runs/mine faces/ --out predictions.csv
    """
    from facenet2expnet.cli import console
    from facenet2expnet.experiment.evaluate import evaluate as evaluate_model
    from facenet2expnet.report import tables

    if out:
        check_table_name(out)
    with console.progress(quiet) as reporter:
        found = evaluate_model(model, data, device=device, progress=reporter.faces)
    for note in found.notes:
        print(note)
    table = tables.comparison_text(tables.comparison(found.metrics, ""))
    console.out.print(tables.to_rich(table))
    per_class = tables.per_class(found.metrics)
    scores = per_class.columns[2:]
    per_class[scores] = per_class[scores].map(tables.percent)
    console.out.print(tables.to_rich(per_class))
    if out:
        write_table(found.predictions, out)
        print(f"{len(found.predictions)} rows written to {out}")
        _write_skipped(found.skipped, out)


def nets() -> None:
    """List the face nets, and the layers that can be tapped of those that are at hand.

    Example: fn2en nets
    """
    from facenet2expnet.errors import UserError
    from facenet2expnet.nets import face

    for name in face.available():
        try:
            info, missing = face.load(name).info, ""
        except UserError as error:
            info, missing = face.load(name, face.GENERATED).info, f"\n    {error}"
        taps = ", ".join(f"{tap} {'x'.join(map(str, shape))}" for tap, shape in info.taps.items())
        print(
            f"{name}: {info.input_px} px; default layer {info.default_tap}; {info.licence}\n    {taps}{missing}"
        )


def check_table_name(path: Path) -> None:
    """Refuse a file name whose ending says no known kind of table, before any work."""
    from facenet2expnet.errors import UserError

    if path.suffix.lower() not in (".csv", ".json", ".parquet"):
        raise UserError(f"{path}: expected a name that ends in .csv, .json or .parquet")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as its file name says."""
    import io

    from facenet2expnet.data.writing import write_whole

    kind = path.suffix.lower()
    if kind == ".csv":
        content = table.to_csv(index=False).encode()
    elif kind == ".json":
        content = table.to_json(orient="records", indent=1, force_ascii=False).encode()
    else:
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        content = buffer.getvalue()
    write_whole(path, content)


def _write_skipped(skipped: Sequence[Skipped], table: Path) -> None:
    """Write what was left out beside the table, if anything was."""
    from facenet2expnet.data.pictures import write_skipped

    if skipped:
        path = table.with_name(f"{table.stem}.skipped.csv")
        write_skipped(skipped, path)
        print(f"{len(skipped)} pictures left out, listed in {path}")


def _print_predictions(table: pd.DataFrame) -> None:
    from rich.table import Table

    from facenet2expnet.cli import console

    classes = [column for column in table.columns if column.startswith("p_")]
    shown = Table("image", "predicted", *(name.removeprefix("p_") for name in classes))
    for _, row in table.head(SHOWN).iterrows():
        shown.add_row(str(row["image"]), str(row["predicted"]), *(f"{row[name]:.0%}" for name in classes))
    console.out.print(shown)
    if len(table) > SHOWN:
        print(f"... and {len(table) - SHOWN} more; write all of them with --out")
