"""fn2en push."""

from __future__ import annotations

from typing import Annotated

import typer


def add(app: typer.Typer) -> None:
    """Mount the command."""
    app.command()(push)


def push(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model folder or a run on this machine, or standard or small.")
    ],
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub; created if it does not exist.")
    ],
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public. By default private.")] = False,
    licence: Annotated[
        str | None,
        typer.Option("--licence", help="Licence of the weights, as the hub names it: apache-2.0, cc-by-nc-4.0, other."),
    ] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="Message of the commit.")] = "",
) -> None:
    """Upload a model and its model card to the Hugging Face hub. Log in first: hf auth login.

    Example: fn2en push runs/mine owner/name
    """
    from facenet2expnet.deploy import hub

    commit = hub.push(model, repository, public=public, licence=licence, message=message)
    print(f"commit: {commit}")
    print(f"try it: fn2en predict hf:{repository} PICTURE")
