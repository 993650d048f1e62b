"""fn2en serve."""

from __future__ import annotations

import importlib.util
import ipaddress
import sys
from typing import Annotated

import typer

from facenet2expnet.cli.run import MODELS, Device, Quiet

PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""Names by which a service on this machine is called from this machine."""

Option = typer.Option


def add(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command()(serve)


def serve(
    model: Annotated[str | None, typer.Argument(help=f"Expected: {MODELS}. By default the package's standard.")] = None,
    host: Annotated[str, Option(help="Address to listen at. By default, only this machine reaches it.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="Port to listen at; 0 for any that is free.")] = 8000,
    token: Annotated[
        str | None, Option(envvar="FN2EN_TOKEN", help="Requests must send: Authorization: Bearer TOKEN.")
    ] = None,
    cors_origins: Annotated[
        list[str] | None, Option("--cors-origin", help="A web site whose pages may call the service. Repeatable.")
    ] = None,
    proxy: Annotated[
        str | None, Option(help="Address of a reverse proxy in front; its X-Forwarded-For names the clients.")
    ] = None,
    hostnames: Annotated[
        list[str] | None,
        Option("--hostname", help="A host name of the service; requests to others are refused. Repeatable."),
    ] = None,
    max_megabytes: Annotated[float, Option("--max-megabytes", help="Largest request.")] = 20.0,
    max_megapixels: Annotated[float, Option("--max-megapixels", help="Largest picture, at most 89.")] = 40.0,
    max_pictures: Annotated[int, Option("--max-pictures", help="Pictures in a request.")] = 16,
    max_faces: Annotated[int, Option("--max-faces", help="Faces in a picture, or cut-out faces in a request.")] = 128,
    max_rate: Annotated[float, Option("--max-rate", help="Requests a second of one client; 0 for no limit.")] = 50.0,
    max_queue: Annotated[
        int,
        Option("--max-queue", help="Requests being processed or waiting; more get 503. One client may hold a quarter."),
    ] = 64,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Serve a model on this machine: a web page, and an interface for programs.

    Example: fn2en serve runs/mine --port 8080
    """
    from facenet2expnet.cli import console
    from facenet2expnet.errors import UserError

    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"the service needs {', '.join(missing)}: pip install 'facenet2expnet[serve]'")
    from facenet2expnet.deploy import serve as service
    from facenet2expnet.deploy.uploads import Limits
    from facenet2expnet.predict.recognizer import Recognizer

    try:
        limits = Limits(
            megabytes=max_megabytes, megapixels=max_megapixels, pictures=max_pictures, faces=max_faces,
            rate=max_rate, queue=max_queue,
        )  # fmt: skip
    except UserError as error:
        raise UserError(f"--max-{error}") from None
    token = None if token is None else token.strip()  # a file often ends in a line break
    if token == "":
        raise UserError("the token is empty; give one, or leave --token out to let anyone in")
    local = is_loopback(host)
    with console.progress(quiet):
        recognizer = Recognizer.load(model, device)
        service.warm_up(recognizer)
        hosts = (*LOOPBACK, host, *(hostnames or ())) if hostnames or (local and not proxy) else ("*",)
        app = service.create_app(recognizer, limits, token=token, cors_origins=cors_origins or (), hosts=hosts)
        listening = service.listen(host, port)
        where = f"[{host}]" if ":" in host else host
        print(f"serving at http://{where}:{listening.getsockname()[1]}; Ctrl-C stops", flush=True)
        if not local and not token:
            print(
                "fn2en: anyone who can reach this machine can use the service; restrict it with --token",
                file=sys.stderr,
            )
        service.run(service.make_server(app, proxy=proxy), listening)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
