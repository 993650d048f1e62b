"""fn2en nets: the face nets, their layers and their metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from facenet2expnet.nets.face import FaceNet

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="A face net; also timm:NAME or onnx:PATH.", show_default=False),
]
Weights = Annotated[str, typer.Option(help="Weights for NAME: a file, hf:owner/name/file, or https://…#sha256=HEX.")]


def nets(names: Names = None, weights: Weights = "") -> None:
    """List the face nets and their layers, or print all metadata of those that are named.

    Example: fn2en nets vgg-face timm:resnet18
    """
    from facenet2expnet.errors import UserError
    from facenet2expnet.nets import face

    if weights and len(names or ()) != 1:
        raise UserError(f"--weights {weights}: expected one NAME with it, got {len(names or ())}")
    if names:
        for name in names:
            _print_one(name, *_load(name, weights))
        return
    for name in face.available():
        try:
            net, missing = _load(name)
        except UserError as error:
            _print(f"{name}: {error}", [])
            continue
        layers = ", ".join(_layers(net, {net.info.default_tap: " (default)"}))
        rows = [("licence", net.info.licence), ("layers", layers)]
        _print(f"{name}: {net.info.input_px} px, {_parameters(net)}{', needs weights' if missing else ''}", rows)
    print("timm:NAME, any model of timm; onnx:PATH, any face net in an ONNX file")
    print("`fn2en nets NAME` prints preprocessing, source and weights of one.")


def _load(name: str, weights: str = "") -> tuple[FaceNet, str]:
    """Load a face net; without its weights, only names and shapes, and the reason. Nothing unnamed is downloaded."""
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


def _print_one(name: str, net: FaceNet, missing: str) -> None:
    """Print all metadata of a face net."""
    info = net.info
    mean = ", ".join(f"{value:.7g}" for value in info.mean_rgb)
    marks = {info.default_tap: " (default of stage 1)"}
    marks[info.embedding] = marks.get(info.embedding, "") + " (gets a new classifier for fine-tuning)"
    rows = [
        ("input", f"{info.input_px} x {info.input_px} px, {info.colour.upper()}"),
        ("pixels", f"(pixel - [{mean}]) / {info.scale:.7g}, in the order red, green, blue"),
        ("weights", _parameters(net)),
        ("licence", info.licence),
        ("source", info.source),
        ("missing", missing),
        *(("note", note) for note in info.notes),
        ("layers", "\n".join(_layers(net, marks))),
    ]
    _print(name, rows)


def _layers(net: FaceNet, marks: dict[str, str]) -> list[str]:
    """The layers with their shapes, shallow to deep, and the marks of some."""
    return [f"{tap} {'x'.join(map(str, shape))}{marks.get(tap, '')}" for tap, shape in net.info.taps.items()]


def _parameters(net: FaceNet) -> str:
    count = sum(parameter.numel() for parameter in net.parameters())
    return f"{count:,} parameters" if count else "no parameters to train"


def _print(title: str, rows: list[tuple[str, str]]) -> None:
    """Print a title, and below it the rows (name, text) that have a text."""
    from rich.table import Table
    from rich.text import Text

    from facenet2expnet.cli import console

    grid = Table.grid("", "", padding=(0, 2))
    for name, text in rows:
        if text:
            grid.add_row(Text(f"  {name}"), Text(text))
    console.out.print(title, markup=False)
    console.out.print(grid)
