"""A web service around a trained model: faces in, expressions out; nothing is kept."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from facenet2expnet import __version__
from facenet2expnet.data.pictures import decode_picture
from facenet2expnet.deploy import WEB, answers
from facenet2expnet.deploy.answers import CropAnswer, CropsAnswer, ErrorAnswer, FacesAnswer, PictureAnswer
from facenet2expnet.deploy.batching import Batcher
from facenet2expnet.deploy.gate import Gate, Metrics, Outermost
from facenet2expnet.deploy.uploads import FORMATS, Limits, Refused, Upload, read_body, read_uploads
from facenet2expnet.errors import UserError
from facenet2expnet.predict.options import Options
from facenet2expnet.predict.recognizer import Recognizer
from facenet2expnet.predict.results import FrameResult
from facenet2expnet.processor import cores

ENGINE = "engine.js"
"""What the page imports to analyse a picture; here it asks the service, in `engine_server.js`."""

BATCH_PICTURES = 16
STOP_S = 30
"""Requests that are being worked on when the service stops have so many seconds."""

DETAILS = ("method", "licence", "use", "results", "metrics", "created")
"""What /v1/model tells of the model's metadata; the rest may name folders of the machine that trained it."""

log = logging.getLogger(__name__)


def create_app(
    recognizer: Recognizer,
    limits: Limits | None = None,
    *,
    token: str | None = None,
    cors_origins: Sequence[str] = (),
    hosts: Sequence[str] = ("*",),
) -> FastAPI:
    """The service as an ASGI application.

    Args:
        recognizer: the model.
        limits: what is accepted.
        token: a bearer token that requests to /v1 and /metrics must carry; None for none.
        cors_origins: web sites whose pages may call the service from a browser.
        hosts: names by which the service is called; others are refused, so that a web site can't reach a service on
            the visitor's own machine under a name of its own (DNS rebinding).
    """
    limits = limits or Limits()
    gate = Gate(limits, token)
    metrics = Metrics(lambda: gate.inside)
    worker = Worker(recognizer, limits, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        working = asyncio.create_task(worker.batcher.work())
        yield
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    app = FastAPI(
        title="FaceNet2ExpNet", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
        description="Finds faces in pictures, and predicts their expressions.",
    )  # fmt: skip
    _add_error_answers(app)
    app.include_router(_routes(worker, gate, metrics, limits))
    _add_page(app)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(cors_origins), allow_methods=["GET", "POST"],
            allow_headers=["authorization"], expose_headers=["retry-after"],
        )  # fmt: skip
    if "*" not in hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(Outermost, metrics=metrics)
    return app


class Worker:
    """Decodes and classifies the pictures of several requests together."""

    def __init__(self, recognizer: Recognizer, limits: Limits, metrics: Metrics) -> None:
        self.recognizer, self.limits, self.metrics = recognizer, limits, metrics
        self.decoders = ThreadPoolExecutor(cores(), "decode")
        self.batcher: Batcher[Upload, PictureAnswer] = Batcher(
            self._run, most_items=BATCH_PICTURES, most_cost=limits.pixels, on_batch=metrics.batches.observe
        )

    async def classify(
        self, uploads: Sequence[tuple[str, Upload | Refused]], options: Callable[[Upload], Options]
    ) -> list[PictureAnswer | Refused]:
        """Return the faces of each picture, or why there are none; raises Refused if no picture could be read."""
        items = [(options(upload), upload, upload.pixels) for _, upload in uploads if isinstance(upload, Upload)]
        results = iter(await self.batcher.submit(items))
        found = [upload if isinstance(upload, Refused) else self._outcome(next(results)) for _, upload in uploads]
        refusals = [one for one in found if isinstance(one, Refused)]
        if len(refusals) == len(found):
            first = refusals[0]
            raise Refused(first.status, first.code, f"{uploads[0][0] or 'the picture'} {first.message}")
        return found

    def _outcome(self, result: PictureAnswer | BaseException) -> PictureAnswer | Refused:
        if isinstance(result, PictureAnswer | Refused):
            return result
        log.error("A picture failed: %s", type(result).__name__, exc_info=result)
        return Refused(500, "failed", "could not be classified: internal error; see the service's log")

    def _run(self, options: Options, uploads: list[Upload]) -> list[PictureAnswer | Exception]:
        """Decode and classify pictures; runs in the batcher's thread."""
        decoded = list(self.decoders.map(_decode, uploads))
        pictures = [pixels for pixels in decoded if isinstance(pixels, np.ndarray)]
        found: list[PictureAnswer | Exception] = []
        if pictures:
            with contextlib.closing(self.recognizer.stream(pictures, options)) as results:
                found = [self._answer(result) for result in results]
        answered = iter(found)
        return [next(answered) if isinstance(pixels, np.ndarray) else pixels for pixels in decoded]

    def _answer(self, result: FrameResult) -> PictureAnswer | Exception:
        if result.unread:
            return Refused(422, "unreadable_picture", result.note)
        if len(result.faces) > self.limits.faces:
            message = f"shows {len(result.faces)} faces, the limit is {self.limits.faces}; ask for faces=largest"
            return Refused(413, "too_many_faces", message)
        self.metrics.pictures.inc()
        self.metrics.faces.inc(len(result.faces))
        return answers.to_picture(result)


def _decode(upload: Upload) -> np.ndarray | Refused:
    try:
        return decode_picture(upload.open(), FORMATS)
    except UserError as error:
        return Refused(422, "unreadable_picture", str(error)[:200])


def _routes(worker: Worker, gate: Gate, metrics: Metrics, limits: Limits) -> APIRouter:
    """The service's paths."""

    def client_of(request: Request) -> str:
        return request.client.host if request.client else ""

    async def check(request: Request) -> None:
        gate.check(client_of(request), request.headers.get("authorization", ""))

    async def uploads(request: Request, field: str, most: int) -> list[tuple[str, Upload | Refused]]:
        body = await read_body(request.stream(), request.headers, limits)
        return await run_in_threadpool(read_uploads, request.headers.get("content-type", ""), body, field, most, limits)

    guarded = APIRouter(dependencies=[Depends(check)], responses=_refusals(401, 429))
    sent = _refusals(400, 408, 413, 415, 422, 500, 503)

    @guarded.post("/v1/faces", responses=sent, openapi_extra=_form("pictures"))
    async def find_faces(
        request: Request,
        faces: Annotated[Literal["all", "largest"], Query(description="Which faces of a picture.")] = "all",
        min_face_px: Annotated[
            float | None,
            Query(ge=1, le=10_000, description="Smallest face; never below a 64th of the picture's longer side."),
        ] = None,
        min_score: Annotated[
            float | None, Query(allow_inf_nan=False, description="Leave out faces with a lower detection score.")
        ] = None,
    ) -> FacesAnswer:
        """Find the faces of pictures, and predict their expressions."""
        options = partial(_photo_options, faces, min_face_px, min_score)
        with gate.slot(client_of(request)):
            named = await uploads(request, "pictures", limits.pictures)
            found = await worker.classify(named, options)
        pictures = [
            PictureAnswer(name=name, error=answers.error_body(one))
            if isinstance(one, Refused)
            else one.model_copy(update={"name": name})
            for (name, _), one in zip(named, found, strict=True)
        ]
        return FacesAnswer(pictures=pictures)

    @guarded.post("/v1/crops", responses=sent, openapi_extra=_form("crops"))
    async def classify_crops(request: Request) -> CropsAnswer:
        """Predict the expressions of faces that are cut out already; each picture is one face."""
        with gate.slot(client_of(request)):
            named = await uploads(request, "crops", limits.faces)
            found = await worker.classify(named, lambda upload: Options(faces="whole-image"))
        crops = []
        for (name, _), one in zip(named, found, strict=True):
            if isinstance(one, Refused):
                crops.append(CropAnswer(name=name, error=answers.error_body(one)))
            else:
                face = one.faces[0].model_dump(include=set(answers.Expression.model_fields))
                crops.append(CropAnswer(name=name, expression=answers.Expression(**face)))
        return CropsAnswer(crops=crops)

    @guarded.get("/v1/model")
    async def describe_model() -> answers.ModelAnswer:
        """The model's classes and crop contract, and the limits of the service."""
        recognizer = worker.recognizer
        details = {key: recognizer.metadata[key] for key in DETAILS if key in recognizer.metadata}
        return answers.ModelAnswer(
            classes=list(recognizer.classes), contract=recognizer.contract.to_dict(), details=details,
            version=__version__, limits=asdict(limits),
        )  # fmt: skip

    @guarded.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def count() -> Response:
        """Counts for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    open_to_all = APIRouter()

    @open_to_all.get("/healthz")
    async def health() -> answers.HealthAnswer:
        """Whether the service takes requests."""
        return answers.HealthAnswer(status="ok")

    open_to_all.include_router(guarded)
    return open_to_all


def _photo_options(faces: str, min_face_px: float | None, min_score: float | None, upload: Upload) -> Options:
    """How to look at one picture; a search for faces smaller than the default would let a request cost any time."""
    smaller = min_face_px is not None and min_face_px <= max(upload.size_wh) / 64
    return Options(faces=faces, min_face_px=None if smaller else min_face_px, min_score=min_score)


def _form(field: str) -> dict[str, Any]:
    """The request body in OpenAPI: a form with files."""
    files = {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
    schema = {"type": "object", "required": [field], "properties": {field: files}, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorAnswer} for status in statuses}


def _add_error_answers(app: FastAPI) -> None:
    """Answer everything that goes wrong as `ErrorAnswer`."""

    def answer(refused: Refused, headers: dict[str, str] | None = None) -> JSONResponse:
        headers = dict(headers or {})
        if refused.retry_s is not None:
            headers["Retry-After"] = str(refused.retry_s)
        if refused.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        body = ErrorAnswer(error=answers.error_body(refused))
        return JSONResponse(body.model_dump(), refused.status, headers)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return answer(error)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> JSONResponse:
        return answer(Refused(400, "gone", "the client went away before its request was complete"))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        return answer(Refused(error.status_code, code, str(error.detail)), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = [f"{fault['loc'][-1]}: {fault['msg']}" for fault in error.errors()]
        return answer(Refused(422, "invalid_parameter", "; ".join(faults)))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return answer(Refused(500, "failed", "internal error; see the service's log"))


def _add_page(app: FastAPI) -> None:
    """Serve the page's files, by name; no other file can be asked for."""
    files = {file.name: file for file in WEB.iterdir() if file.suffix in (".html", ".css", ".js", ".svg")}
    files[ENGINE] = WEB / "engine_server.js"

    def add(path: str, file: Path) -> None:
        async def send() -> FileResponse:
            return FileResponse(file, headers={"Cache-Control": "no-cache"})

        app.add_api_route(path, send, methods=["GET", "HEAD"], include_in_schema=False)

    add("/", files["index.html"])
    for name, file in files.items():
        add(f"/{name}", file)


def listen(host: str, port: int) -> socket.socket:
    """Open the service's socket.

    Without TCP_NODELAY, which its connections inherit, the second part of every answer waits 40 ms for the client.

    Raises:
        UserError: If the address is not of this machine, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=1024)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"can't listen at {host}, port {port}: {reason}; choose another by --host and --port") from None


def warm_up(recognizer: Recognizer) -> None:
    """Classify a blank picture, so that the first request is not slower; raises UserError if a package is missing."""
    recognizer.predict(np.zeros((64, 64, 3), np.uint8))
    recognizer.predict(np.zeros((64, 64, 3), np.uint8), faces="whole-image")


def make_server(app: FastAPI, *, proxy: str | None = None) -> uvicorn.Server:
    """The server of an app; when it stops, it finishes the requests that are being worked on.

    Args:
        proxy: address of a reverse proxy whose X-Forwarded-For tells the client; others could make theirs up.
    """
    config = uvicorn.Config(
        app, access_log=False, log_level="warning", ws="none", lifespan="on", server_header=False,
        proxy_headers=proxy is not None, forwarded_allow_ips=proxy or "", timeout_graceful_shutdown=STOP_S,
    )  # fmt: skip
    return uvicorn.Server(config)


def run(server: uvicorn.Server, listening: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM."""
    logging.getLogger("facenet2expnet.predict").setLevel(logging.ERROR)  # its warnings are of the model: said at start
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it describes every damaged form
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is the usual end
        server.run(sockets=[listening])
