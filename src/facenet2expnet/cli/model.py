"""fn2en predict, nets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facenet2expnet.cli.run import Device, OnDevice, Quiet

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from facenet2expnet.data.pictures import Skipped
    from facenet2expnet.nets.face import FaceNet

ModelFolder = Annotated[Path, typer.Argument(help="A model folder, or a run folder with one model.")]
TableFile = Annotated[
    Path | None, typer.Option("--out", "-o", help="Write the table: .csv, .json or .parquet.")
]
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
    app.command()(nets)


def predict(
    model: ModelFolder,
    images: Annotated[list[str], typer.Argument(help="Image files, or folders of images.")],
    out: TableFile = None,
    centre_crop: Annotated[
        bool, typer.Option("--centre-crop", help="Use the centre of images in which no face is found.")
    ] = False,
    device: OnDevice = Device.auto,
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
    recognizer = Recognizer.load(model, choose_device(device.value))
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
