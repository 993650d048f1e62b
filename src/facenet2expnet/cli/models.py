"""fn2en models: the models that come with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torch import nn

Time = Annotated[bool, typer.Option("--time/--no-time", help="Measure the milliseconds a face on this machine.")]


def models(time: Time = True) -> None:
    """List the models of this package: classes, accuracy, size, milliseconds a face, data and licence.

    Example: fn2en models --no-time
    """
    from rich.table import Table
    from rich.text import Text

    from facenet2expnet.cli import console
    from facenet2expnet.predict.model_folder import CARD, SHIPPED, SHIPPED_NAMES, WEIGHTS, load_model

    for name in SHIPPED_NAMES:
        if not (SHIPPED / name / CARD).is_file():
            print(f"{name}: this copy of the package comes without it")
            continue
        model = load_model(SHIPPED / name)
        about, megabytes = model.metadata, (SHIPPED / name / WEIGHTS).stat().st_size / 1e6
        rows = [("classes", ", ".join(model.classes))]
        rows += [
            ("accuracy", f"{found['accuracy']:.1%}, macro recall {found['balanced_accuracy']:.1%}: {test}")
            for test, found in about["results"].items()
        ]
        rows.append(("size", f"{about['parameters']:,} weights, {megabytes:.1f} MB, {model.contract.crop_px} px"))
        if time:
            rows.append(("time", f"{_milliseconds(model.module, model.contract.crop_px):.1f} ms a face, PyTorch"))
        rows += [("data", about["trained_on"]["words"]), ("licence", about["licence"]), ("use", about["use"])]
        grid = Table.grid("", "", padding=(0, 2))
        for key, text in rows:
            grid.add_row(Text(f"  {key}"), Text(text))
        console.out.print(name, markup=False)
        console.out.print(grid)


def _milliseconds(module: nn.Module, crop_px: int) -> float:
    """Return the time of one face at a time, on one thread of the processor."""
    import torch

    from facenet2expnet.experiment.speed import measure

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return float(measure("fn2en", module, crop_px, torch.device("cpu"))["ms_single"])
    finally:
        torch.set_num_threads(threads)
