"""fn2en sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add(app: typer.Typer) -> None:
    """Mount the commands."""
    sample = typer.Typer(no_args_is_help=True, help="The bundled sample of rendered faces.")
    sample.command("export")(export)
    sample.callback()(lambda: None)
    app.add_typer(sample, name="sample")


def export(folder: Annotated[Path, typer.Argument(help="Where to write it; new or empty.")]) -> None:
    """Write the bundled sample in CK+'s own directory layout.

    Example: fn2en sample export ckplus-sample
    """
    from facenet2expnet.data.bundled import export_ckplus

    export_ckplus(folder)
    print(f"written to {folder}")
