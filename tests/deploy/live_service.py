"""A service that runs in a thread, and what is sent to it."""

from __future__ import annotations

import contextlib
import io
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

FORM = "multipart/form-data; boundary=xx"


def form(*parts: tuple[str, str | None, bytes]) -> bytes:
    """A body of parts: name of the field, name of the file (None for text), content."""
    body = b""
    for field, file, content in parts:
        named = "" if file is None else f'; filename="{file}"'
        body += f'--xx\r\nContent-Disposition: form-data; name="{field}"{named}\r\n\r\n'.encode() + content + b"\r\n"
    return body + b"--xx--\r\n"


def png_header(width: int, height: int) -> bytes:
    """A PNG that states a size, and has no pixels."""
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT")


def chunk(name: bytes, content: bytes = b"") -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def noise(height: int = 40, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


@dataclass
class Live:
    """A service that runs in a thread."""

    url: str
    stop: Callable[[], None]
    thread: threading.Thread


@contextlib.contextmanager
def live(app: Any) -> Iterator[Live]:
    """Serve an app on a free port."""
    from facenet2expnet.deploy import serve

    listening = serve.listen("127.0.0.1", 0)
    server = serve.make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    began = time.monotonic()
    while not server.started and time.monotonic() - began < 60:
        time.sleep(0.01)
    assert server.started

    def stop() -> None:
        server.should_exit = True

    yield Live(f"http://127.0.0.1:{listening.getsockname()[1]}", stop, thread)
    stop()
    thread.join(60)
    listening.close()
    assert not thread.is_alive()
