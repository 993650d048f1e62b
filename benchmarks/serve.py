"""Requests a second, and how long they take, of `fn2en serve` with 1, 8 and 32 clients; and its memory.

    python benchmarks/serve.py --model runs/mine --out runs/serve
    python benchmarks/serve.py --model runs/mine --memory 20000
    python benchmarks/serve.py --model runs/mine --peer /path/to/venv/bin/python

Two kinds of requests: a photograph with one face, and a cut-out face; both of the bundled sample. The clients are
threads of this process, which send the next request when the last one is answered. The peer is deepface or fer,
whichever its environment has, behind a small server of its own with the same pictures and clients; it takes one
picture at a time. `--memory` sends so many cut-out faces and prints the service's memory on the way. Only the ratios
within one run mean anything on a busy machine.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from PIL import Image, ImageFilter

from facenet2expnet.data import bundled

WIDTH, HEIGHT, FACE = 640, 480, 160
WARM_UP = 3

PEER = """
import io, json
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
import numpy as np
from PIL import Image
try:
    from deepface import DeepFace
    name, build = "deepface", lambda: lambda picture: DeepFace.analyze(
        picture[..., ::-1], actions=["emotion"], detector_backend="mtcnn", enforce_detection=False, silent=True)
except ImportError:
    with suppress(ImportError):
        import facenet_pytorch  # before TensorFlow: the other way round, some releases crash together
    from fer.fer import FER
    name, build = "fer", lambda: FER(mtcnn=True).detect_emotions
analyse, lock = build(), Lock()
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def log_message(self, *_):
        pass
    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        with lock:
            found = analyse(picture)
        body = json.dumps({"faces": len(found)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(name, f"http://127.0.0.1:{server.server_address[1]}", flush=True)
server.serve_forever()
"""


class Load(NamedTuple):
    """One kind of request: what is asked, of whom, and what is sent."""

    name: str
    url: str
    headers: dict[str, str]
    body: bytes


def main(arguments: list[str] | None = None) -> None:
    """Print a Markdown table, and write it with --out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=300, help="for each number of clients")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--memory", type=int, default=0, help="so many more requests, for the memory")
    parser.add_argument("--peer", help="the Python of an environment that has deepface or fer")
    parser.add_argument("--out", type=Path, help="a folder for serve.json")
    chosen = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    memory: list[dict[str, float]] = []
    with fn2en(chosen.model) as url:
        for load in (photograph(f"{url}/v1/faces"), cut_out(f"{url}/v1/crops")):
            rows += [measure(load, clients, chosen.requests) for clients in chosen.clients]
        if chosen.memory:
            memory = watch_memory(cut_out(f"{url}/v1/crops"), url, chosen.memory)
    if chosen.peer:
        with peer(chosen.peer) as (name, url):
            load = Load(f"{name}, photograph", url, {"Content-Type": "image/jpeg"}, jpeg(scene()))
            rows += [measure(load, clients, chosen.requests) for clients in chosen.clients]
    print("| " + " | ".join(rows[0]) + " |\n|---|" + "---:|" * (len(rows[0]) - 1))
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")
    for point in memory:
        print(f"{point['requests']:,.0f} requests: {point['megabytes']:.0f} MB")
    if chosen.out:
        chosen.out.mkdir(parents=True, exist_ok=True)
        found = {"rows": rows, "memory": memory, "processors": os.cpu_count()}
        (chosen.out / "serve.json").write_text(json.dumps(found, indent=1))


@contextlib.contextmanager
def fn2en(model: Path) -> Iterator[str]:
    """Start the service on a free port; its address."""
    command = f"serve {shlex.quote(str(model))} --port 0 --max-rate 0 --max-queue 256"  # a quarter is for one address
    words = [sys.executable, "-m", "facenet2expnet.cli.main", *shlex.split(command)]
    with started(words) as line:
        yield line.split()[2].rstrip(";")


@contextlib.contextmanager
def peer(python: str) -> Iterator[tuple[str, str]]:
    """Start the peer's server; its name and address."""
    with started([python, "-c", PEER]) as line:
        name, url = line.split()
        yield name, url


@contextlib.contextmanager
def started(words: list[str]) -> Iterator[str]:
    """A process until the end of the block; the first line that it prints."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                sys.exit(f"{words[0]} did not start; its error is above")
            yield line
        finally:
            process.terminate()


def scene() -> Image.Image:
    """A rendered face before a quiet background, 640 x 480."""
    rng = np.random.default_rng(0)
    wall = Image.fromarray(rng.integers(40, 200, (HEIGHT, WIDTH, 3), dtype=np.uint8)).filter(
        ImageFilter.GaussianBlur(8)
    )
    wall.paste(face().resize((FACE, FACE)), (240, 150))
    return wall


def face() -> Image.Image:
    """The first strong expression of the sample."""
    table = bundled.read_sample()
    return Image.open(bundled.sample_folder() / table.loc[table["intensity"] > 0.8, "image"].iloc[0]).convert("RGB")


def jpeg(picture: Image.Image) -> bytes:
    """A picture as a file."""
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=90)
    return content.getvalue()


def photograph(url: str) -> Load:
    """A photograph in which the face has to be found."""
    return Load("fn2en, photograph", url, *form("pictures", jpeg(scene())))


def cut_out(url: str) -> Load:
    """A face that is cut out already."""
    return Load("fn2en, cut-out face", url, *form("crops", jpeg(face())))


def form(field: str, content: bytes) -> tuple[dict[str, str], bytes]:
    """Headers and body of a form with one file."""
    head = f'--part\r\nContent-Disposition: form-data; name="{field}"; filename="a.jpg"\r\n\r\n'
    return {"Content-Type": "multipart/form-data; boundary=part"}, head.encode() + content + b"\r\n--part--\r\n"


def measure(load: Load, clients: int, requests: int) -> dict[str, Any]:
    """Requests a second, and the times of requests in milliseconds."""
    send_many(load, 1, WARM_UP)
    began = time.perf_counter()
    times_ms, failed = send_many(load, clients, requests)
    seconds = time.perf_counter() - began
    return {
        "what": load.name,
        "clients": clients,
        "requests/s": round(len(times_ms) / seconds, 1),
        "p50, ms": round(float(np.percentile(times_ms, 50)), 1),
        "p99, ms": round(float(np.percentile(times_ms, 99)), 1),
        "failed": failed,
    }


def send_many(load: Load, clients: int, requests: int) -> tuple[list[float], int]:
    """Send requests from several clients at once; the time of each in milliseconds, and how many were refused."""
    left = iter(range(requests))
    times_ms: list[float] = []
    failed: list[int] = []

    def work() -> None:
        address = urlsplit(load.url)
        connection = http.client.HTTPConnection(address.netloc)
        for _ in left:
            began = time.perf_counter()
            connection.request("POST", address.path or "/", load.body, load.headers)
            answer = connection.getresponse()
            answer.read()
            times_ms.append(1000 * (time.perf_counter() - began))
            if answer.status != 200:
                failed.append(answer.status)
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times_ms, len(failed)


def watch_memory(load: Load, url: str, requests: int) -> list[dict[str, float]]:
    """The service's memory in megabytes before, and after each tenth of the requests."""
    points = [{"requests": 0.0, "megabytes": memory_mb(url)}]
    for part in range(10):
        send_many(load, 8, requests // 10)
        points.append({"requests": float((part + 1) * (requests // 10)), "megabytes": memory_mb(url)})
    return points


def memory_mb(url: str) -> float:
    """The service's memory now, as it says itself."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    line = next(line for line in text.splitlines() if line.startswith("process_resident_memory_bytes "))
    return float(line.split()[1]) / 1e6


if __name__ == "__main__":
    main()
