"""The command `fn2en`. Every command is thin: it reads options, calls the library and prints."""

from __future__ import annotations

import errno
import logging
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from facenet2expnet import __version__
from facenet2expnet.errors import UserError

DISK = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT)
"""Errors of a full or write-protected disk, which the user can mend."""

FLAGS = {
    name: f"--{name.removesuffix('_px').removesuffix('_s').replace('_', '-')}"
    for name in (
        "faces", "detector", "min_face_px", "min_probability", "every", "detect_every", "smooth_s", "max_megapixels",
        "part", "first_folds",
    )
}  # fmt: skip
"""Argument of the library -> option of the command line."""

SOURCE_OPTIONS = ("classes", "faces", "frames", "labels", "size", "unlabelled")
"""Options of datasets, which are given as --option NAME=VALUE."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it; Typer turns the interrupt into it."""


def make_app() -> typer.Typer:
    """The command with all its groups; heavy libraries load inside the commands that need them."""
    from facenet2expnet.cli import analyse, data, evaluate, export, hub, model, models, nets, run, serve

    app = typer.Typer(
        name="fn2en",
        help="Turn a face recognition network and a small set of labelled faces into a compact expression network.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_common)
    for group in (run, evaluate, model, export, hub, serve, data):
        group.add(app)
    app.command()(nets.nets)
    app.command()(models.models)
    app.add_typer(analyse.app, name="analyse")
    return app


def _common(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if version:
        print(f"facenet2expnet {__version__}")
        raise typer.Exit


def run() -> None:
    """Entry point: run a command, print what the user can mend in one line, exit with 2."""
    from facenet2expnet.cli.console import screens

    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    else:
        _silence_pillow()
    try:
        with screens():
            _run(debug)
    except OSError as error:
        if debug or error.errno not in DISK:
            raise
        place = error.filename or "a file"
        print(f"fn2en: {place}: {error.strerror}; make room or choose another folder", file=sys.stderr)
        sys.exit(2)


def _silence_pillow() -> None:
    """Keep Pillow's warnings off the terminal; the table's note says why a picture can't be read."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())


def _run(debug: bool) -> None:
    try:
        make_app()()
    except UserError as error:
        if debug:
            raise
        print(f"fn2en: {with_flags(str(error), sys.argv[1:])}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:  # in a small installation; see docs/deploy.md
        package = (error.name or "").partition(".")[0]
        if debug or package in ("", "facenet2expnet"):
            raise
        print(
            f"fn2en: this needs the Python package '{package}', which is not installed; pip install facenet2expnet "
            "brings all packages, a small installation those for predicting from ONNX files",
            file=sys.stderr,
        )
        sys.exit(2)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            resumed = "" if "predict" in sys.argv[1:2] else "; continue a run with --resume --out FOLDER"
            print(f"fn2en: interrupted{resumed}", file=sys.stderr)
        raise


def with_flags(message: str, arguments: Sequence[str]) -> str:
    """A message of the library with the command's option in place of the name of an argument."""
    name, verb, rest = message.partition(" is ")
    if list(arguments[:2]) == ["data", "prepare"]:
        if verb and name in SOURCE_OPTIONS:
            return f"--option {name}={rest.partition(',')[0]}: expected{rest.partition('expected')[2]}"
        message = re.sub(rf"\bpass ((?:{'|'.join(SOURCE_OPTIONS)})=)", r"pass --option \1", message)
    return message.replace(name, FLAGS[name], 1) if verb and name in FLAGS else message


if __name__ == "__main__":
    run()
