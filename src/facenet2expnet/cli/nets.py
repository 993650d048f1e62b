"""fn2en nets: the face nets, their layers and their metadata."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from facenet2expnet.nets.face import FaceNet

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="A face net; also timm:NAME or onnx:PATH.", show_default=False),
]
Weights = Annotated[
    str, typer.Option(help="Weights of the one NAME: a file, hf:owner/name/file, or https://…#sha256=HEX.")
]
WIDTH = 80
"""Of the printed lines, in characters."""


def nets(names: Names = None, weights: Weights = "") -> None:
    """List the face nets and their layers; with names, print all metadata of these.

    Example: fn2en nets vgg-face timm:resnet18
    """
    from facenet2expnet.errors import UserError
    from facenet2expnet.nets import face

    if weights and len(names or ()) != 1:
        raise UserError(f"--weights {weights}: expected one NAME beside it, got {len(names or ())}")
    for name in names or ():
        _print_one(name, *_load(name, weights))
    if names:
        return
    for name in face.available():
        try:
            net, missing = _load(name)
        except UserError as error:
            _print_wrapped(f"{name}: {error}")
            continue
        print(f"{name}: {net.info.input_px} px, {_parameters(net)}")
        _print_wrapped(f"{'needs weights; ' if missing else ''}licence: {net.info.licence}", "    ")
        _print_wrapped(", ".join(_layers(net, {net.info.default_tap: " (default)"})), "    ")
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
        *((("" if number else "layers"), layer) for number, layer in enumerate(_layers(net, marks))),
    ]
    print(name)
    for title, text in rows:
        if text:
            _print_wrapped(text, f"  {title}".ljust(12))


def _layers(net: FaceNet, marks: dict[str, str]) -> list[str]:
    """Return the layers with their shapes, shallow to deep, and the marks of some; a name stays beside its shape."""
    return [f"{t}\u00a0{'x'.join(map(str, shape))}{marks.get(t, '')}" for t, shape in net.info.taps.items()]


def _parameters(net: FaceNet) -> str:
    count = sum(parameter.numel() for parameter in net.parameters())
    return f"{count:,} parameters" if count else "no parameters to train"


def _print_wrapped(text: str, first: str = "") -> None:
    """Print a text in lines of `WIDTH` characters, all as far in as the first."""
    indent = " " * (len(first) or 4)
    wrapped = textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
    print(wrapped.replace("\u00a0", " "))
