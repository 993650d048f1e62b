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
    from facenet2expnet.nets.face import FaceNet

ModelFolder = Annotated[Path, typer.Argument(help="A model folder, or a run folder with one model.")]
TableFile = Annotated[
    Path | None, typer.Option("--out", "-o", help="Write the table: .csv, .json or .parquet.")
]
WhereText = Annotated[str, typer.Option("--device", help="cpu, cuda or mps.")]
NetNames = Annotated[
    list[str] | None, typer.Argument(metavar="NAME", help="Also timm:NAME and onnx:PATH.", show_default=False)
]
NetWeights = Annotated[
    str, typer.Option(help="Its weights: a file, hf:owner/name/file, or https://…#sha256=HEX.")
]
SHOWN = 40
WIDTH = 80
"""Of the lists of face nets, in characters."""


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
    from facenet2expnet.predict.recognizer import Recognizer

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
    console.out.print(tables.to_rich(tables.comparison_text(found.metrics)))
    per_class = tables.per_class(found.metrics)
    scores = per_class.columns[2:]
    per_class[scores] = per_class[scores].map(tables.percent)
    console.out.print(tables.to_rich(per_class))
    if out:
        write_table(found.predictions, out)
        print(f"{len(found.predictions)} rows written to {out}")
        _write_skipped(found.skipped, out)


def nets(names: NetNames = None, weights: NetWeights = "") -> None:
    """List the face nets and their layers; of those named, tell everything.

    Example: fn2en nets vgg-face timm:resnet18
    """
    from facenet2expnet.errors import UserError
    from facenet2expnet.nets import face

    if weights and len(names or ()) != 1:
        raise UserError(f"--weights {weights}: expected one NAME that they are of, got {len(names or ())}")
    for name in names or ():
        print("\n".join(_described(name, *_net(name, weights))))
    if names:
        return
    for name in face.available():
        try:
            net, missing = _net(name)
        except UserError as error:
            print(_wrapped(name, str(error)))
            continue
        needs = "needs weights; " if missing else ""
        print(f"{name}: {net.info.input_px} px, {_parameters(net)}")
        print(_wrapped("", f"{needs}licence: {net.info.licence}"))
        layers = [layer.replace(" ", "\u00a0") for layer in _layers(net, brief=True)]
        print(_wrapped("", ", ".join(layers)).replace("\u00a0", " "))
    print("timm:NAME, any model of timm; onnx:PATH, any face net in an ONNX file")
    print("`fn2en nets NAME` tells preprocessing, source and weights of one.")


def _net(name: str, weights: str = "") -> tuple[FaceNet, str]:
    """A face net to be looked at, and what is missing to use it: then it has names and shapes, no numbers.

    Nothing is downloaded that was not named.
    """
    import torch

    from facenet2expnet.errors import UserError
    from facenet2expnet.nets import face

    missing = ""
    if weights or name.startswith("onnx"):
        return face.load(name, weights or None), missing
    if not name.startswith("timm:"):
        try:
            return face.load(name), missing
        except UserError as error:
            missing = str(error)
    with torch.device("meta"):
        return face.load(name, face.GENERATED), missing


def _described(name: str, net: FaceNet, missing: str) -> list[str]:
    """All that is known of a face net, line by line."""
    info = net.info
    mean = ", ".join(f"{value:.7g}" for value in info.mean_rgb)
    facts = [
        ("input", f"{info.input_px} x {info.input_px} px, {info.colour.upper()}"),
        ("pixels", f"(pixel - [{mean}]) / {info.scale:.7g}, in the order red, green, blue"),
        ("weights", _parameters(net)),
        ("licence", info.licence),
        ("source", info.source),
        ("missing", missing),
        *(("note", note) for note in info.notes),
        *zip(("layers", *[""] * len(info.taps)), _layers(net), strict=False),
    ]
    return [name, *(_wrapped(f"  {title}", text, 12) for title, text in facts if text)]


def _layers(net: FaceNet, *, brief: bool = False) -> list[str]:
    """The layers with their shapes, shallow to deep, and what the marked ones are for."""
    marks = dict.fromkeys(net.info.taps, "")
    if not brief:
        marks[net.info.embedding] += " (a new classifier goes on it)"
    marks[net.info.default_tap] += " (default)" if brief else " (default of stage 1)"
    return [f"{tap} {'x'.join(map(str, shape))}{marks[tap]}" for tap, shape in net.info.taps.items()]


def _parameters(net: FaceNet) -> str:
    count = sum(parameter.numel() for parameter in net.parameters())
    return f"{count:,} parameters" if count else "no parameters to train"


def _wrapped(title: str, text: str, indent: int = 4) -> str:
    """A title and a text beside it, in lines of `WIDTH` characters with the text `indent` in."""
    import textwrap

    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=f"{title} ".ljust(indent),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def check_table_name(path: Path) -> None:
    """Refuse a file name whose ending says no known kind of table, before any work."""
    from facenet2expnet.errors import UserError

    if path.suffix.lower() not in (".csv", ".json", ".parquet"):
        raise UserError(f"{path}: expected a name that ends in .csv, .json or .parquet")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as its file name says."""
    import io

    from facenet2expnet.files import write_atomic

    kind = path.suffix.lower()
    if kind == ".csv":
        content = table.to_csv(index=False).encode()
    elif kind == ".json":
        content = table.to_json(orient="records", indent=1, force_ascii=False).encode()
    else:
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        content = buffer.getvalue()
    write_atomic(path, content)


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
