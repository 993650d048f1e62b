"""fn2en export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facenet2expnet.cli.model import ModelFolder
from facenet2expnet.cli.run import Quiet


def add(app: typer.Typer) -> None:
    """Mount the command."""
    app.command()(export)


def export(
    model: ModelFolder,
    out: Annotated[Path | None, typer.Argument(metavar="[OUT.onnx]", help="The file to write.")] = None,
    web: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write a web page that runs the model in the browser, in place of a file."),
    ] = None,
    ort: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="With --web: an unpacked copy of the npm package onnxruntime-web."),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="8-bit numbers: a quarter of the size, and faster.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="16-bit numbers: half the size.")] = False,
    compact: Annotated[
        bool, typer.Option("--compact", help="8-bit weights, computed in 32 bits: a quarter of the size, as fast.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Faces for the comparison with PyTorch, if possible the training's: a folder of class folders, a "
            "manifest or a face store. By default the bundled sample."
        ),
    ] = None,
    max_drop: Annotated[
        float,
        typer.Option("--max-drop", min=0, max=100, help="Accuracy, in points, that a file with fewer bits may lose."),
    ] = 0.5,
    quiet: Quiet = False,
) -> None:
    """Write a model as one ONNX file that runs without PyTorch, if it answers as PyTorch does on real faces.

    Example: fn2en export runs/mine model.onnx

    As a web page: fn2en export runs/mine --web page/
    """
    from facenet2expnet.cli import console
    from facenet2expnet.deploy import onnx, web_export
    from facenet2expnet.errors import UserError
    from facenet2expnet.predict.sources import printable

    if int8 + fp16 + compact > 1:
        raise UserError("--int8, --fp16 and --compact exclude each other; write two files")
    if (out is None) == (web is None):
        raise UserError("expected either a file OUT.onnx or --web FOLDER")
    if ort and not web:
        raise UserError("--ort goes with --web")
    precision = "int8" if int8 else "float16" if fp16 else "int8-weights" if compact else "float32"
    with console.progress(quiet) as display:
        progress = display.of("reading faces")
        if web:
            page = web_export.export_page(
                model, web, runtime=ort, precision=precision, data=data, max_drop=max_drop, progress=progress
            )
            made = page.model
        else:
            assert out is not None
            made = onnx.export(model, out, precision=precision, data=data, max_drop=max_drop, progress=progress)
    if made.calibrated_on:
        print(f"calibrated on {made.calibrated_on:,} other faces of {made.agreement.data}")
    for line in made.agreement.lines():
        print(line)
    print(f"{printable(str(made.path))}: {made.precision}, {made.size / 1e6:.1f} MB")
    if web:
        folder = printable(str(web))
        parts = ", ".join(f"{part} {size / 1e6:.1f}" for part, size in page.sizes.items())
        print(f"{folder}: a page of {sum(page.sizes.values()) / 1e6:.1f} MB ({parts})")
        print(f"any web server serves it, as in: python -m http.server --bind 127.0.0.1 --directory {folder}")
