"""Whatever is sent, the service answers without an error of its own, and its memory does not grow."""

from __future__ import annotations

import random
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_service import FORM, encode, form, live, noise, png_header
from starlette.testclient import TestClient

from facenet2expnet.deploy import serve
from facenet2expnet.deploy.uploads import Limits
from facenet2expnet.predict.recognizer import Recognizer

PICTURES = [encode(noise(), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP")]
ODD = [b"", b"no", encode(noise(1, 1)), encode(noise(1, 300)), png_header(60_000, 60_000), encode(noise(), "TIFF")]
LIMITS = Limits(megabytes=0.05, megapixels=0.1, pictures=3, faces=3, rate=0)
TIMES = ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS")
PATHS = ("/", "/v1/faces", "/v1/crops", "/v1/model", "/healthz", "/metrics", "/openapi.json", "/app.js", "/v1/", "/%00")


@pytest.fixture(scope="module")
def client(recognizer: Recognizer) -> Iterator[TestClient]:
    with TestClient(serve.create_app(recognizer, LIMITS), raise_server_exceptions=False) as client:
        yield client


def changed(content: bytes, rng: random.Random) -> bytes:
    """Bytes with a few changed, cut out, or put in twice."""
    parts = bytearray(content)
    for _ in range(rng.choice((0, 1, 1, 3, 20))):
        place = rng.randrange(len(parts) + 1)
        end = place + rng.randrange(1, 40)
        kind = rng.randrange(4)
        if kind == 0 and place < len(parts):
            parts[place] = rng.randrange(256)
        elif kind == 1:
            del parts[place:end]
        elif kind == 2:
            parts[place:place] = parts[place:end]
        else:
            parts[place:place] = rng.choice((b"\r\n--xx\r\n", b"\x00" * 9, b"--xx--", b"\xff\xda", rng.randbytes(5)))
    return bytes(parts)


def send_something(client: TestClient, rng: random.Random) -> Any:
    """A request that is nearly right, or far from it."""
    if rng.random() < 0.1:
        return client.request(rng.choice(TIMES), rng.choice(PATHS))
    path, field = rng.choice((("/v1/faces", "pictures"), *[("/v1/crops", "crops")] * 9))
    files = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        content = rng.choice(PICTURES) if rng.random() < 0.8 else rng.choice(ODD)
        name = rng.choice([*[field] * 9, "other"])
        files.append((name, rng.choice([*["a.png"] * 5, "../../etc/passwd", "é\\", None]), changed(content, rng)))
    body = form(*files)
    if rng.random() < 0.4:
        body = changed(body, rng)
    if rng.random() < 0.02:
        body += bytes(60_000)
    content_type = rng.choice([*[FORM] * 9, "multipart/form-data", "text/plain", "multipart/form-data; boundary=é"])
    query = rng.choice(
        ("", "", "", "?faces=largest", "?faces=x", "?min_face_px=1e9", "?min_score=-inf", "?min_face_px=9")
    )
    return client.post(f"{path}{query}", content=body, headers={"Content-Type": content_type.encode()})


def memory_mb() -> float:
    """The process's largest memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def attack(client: TestClient, requests: range) -> Counter[int]:
    """Send requests of these seeds; the number of answers by status."""
    counts: Counter[int] = Counter()
    for seed in requests:
        answer = send_something(client, random.Random(seed))
        assert answer.status_code < 500, f"seed {seed}: {answer.status_code} {answer.text[:300]}"
        counts[answer.status_code] += 1
        if answer.status_code >= 400 and answer.request.method != "HEAD":
            assert set(answer.json()["error"]) == {"code", "message"}, f"seed {seed}"
    return counts


def test_changed_requests_are_answered_without_an_error_of_the_service(client: TestClient) -> None:
    counts = attack(client, range(250))
    assert {200, 400, 413, 415, 422} <= set(counts)
    assert counts[200] > 25


@pytest.mark.slow
def test_ten_thousand_changed_requests_take_no_memory(client: TestClient) -> None:
    attack(client, range(2000))
    before = memory_mb()
    attack(client, range(2000, 12_000))
    assert memory_mb() - before < 20


@pytest.fixture(scope="module")
def api(recognizer: Recognizer) -> Iterator[Any]:
    """The service's own description; files are pictures, mostly."""
    schemathesis.openapi.format("binary", st.sampled_from([*PICTURES, *ODD]))
    with live(serve.create_app(recognizer, LIMITS)) as service:
        yield schemathesis.openapi.from_url(f"{service.url}/openapi.json")


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/faces"), ("POST", "/v1/crops"), ("GET", "/v1/model"), ("GET", "/metrics"), ("GET", "/healthz")],
)
def test_the_service_is_as_it_describes_itself(api: Any, method: str, path: str) -> None:
    accepts = schemathesis.checks.CHECKS.get_by_names(["positive_data_acceptance"])  # a file may be no picture

    @given(case=api[path][method].as_strategy())
    @settings(max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        case.call_and_validate(excluded_checks=accepts)

    check()
