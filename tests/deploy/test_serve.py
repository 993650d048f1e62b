"""The service answers as the library does, refuses clearly, shares batches, keeps nothing, and stops in good order."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from live_service import encode, live, noise, png_header
from PIL import Image
from starlette.testclient import TestClient

import tiny
from facenet2expnet.deploy import WEB, serve
from facenet2expnet.deploy.uploads import Limits
from facenet2expnet.errors import UserError
from facenet2expnet.faces import detect
from facenet2expnet.faces.detect import Face
from facenet2expnet.predict.recognizer import Recognizer

PARTY = Path(__file__).parents[2] / "docs" / "images" / "party.jpg"


@pytest.fixture
def client(recognizer: Recognizer) -> Iterator[TestClient]:
    with TestClient(serve.create_app(recognizer, Limits(pictures=3, rate=0))) as client:
        yield client


@pytest.fixture
def two_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that finds a large and a small face in every picture."""

    def find(pixels: np.ndarray, smallest_px: float) -> list[Face]:
        return [Face(np.array([10.0, 10, 40, 50]), 0.95), Face(np.array([60.0, 20, 160, 150]), 0.99)]

    monkeypatch.setitem(detect.FINDERS, "mtcnn", find)


def send(client: Any, path: str, *pictures: bytes, **query: Any) -> Any:
    field = path.rpartition("/")[2].replace("faces", "pictures")
    files = [(field, (f"{number}.png", content)) for number, content in enumerate(pictures)]
    return client.post(path, files=files, params=query)


def error_of(answer: Any) -> tuple[int, str]:
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    return answer.status_code, body["error"]["code"]


def test_faces_are_those_of_the_library(client: TestClient, recognizer: Recognizer) -> None:
    answer = send(client, "/v1/faces", PARTY.read_bytes())
    assert answer.status_code == 200
    (picture,) = answer.json()["pictures"]
    assert (picture["name"], picture["width"], picture["height"], picture["error"]) == ("0.png", 1000, 420, None)
    expected = recognizer.predict(np.asarray(Image.open(PARTY).convert("RGB"))).results[0]
    assert len(picture["faces"]) == len(expected.faces) == 5
    for face, one, label in zip(picture["faces"], expected.faces, expected.labels, strict=True):
        np.testing.assert_allclose(face["box"], one.box_xyxy_px, atol=0.006)
        assert face["score"] == pytest.approx(one.detection_score, abs=1e-6)
        np.testing.assert_allclose(list(face["probabilities"].values()), one.probabilities, atol=1e-6)
        assert tuple(face["probabilities"]) == tiny.CLASSES
        assert face["label"] == label
        assert face["probability"] == max(face["probabilities"].values())


def test_crops_are_classified_as_they_are(client: TestClient, recognizer: Recognizer) -> None:
    pictures = [noise(seed=number) for number in range(3)]
    crops = send(client, "/v1/crops", *map(encode, pictures)).json()["crops"]
    expected = recognizer.predict(pictures, faces="whole-image").probabilities
    found = [list(crop["expression"]["probabilities"].values()) for crop in crops]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert [crop["name"] for crop in crops] == ["0.png", "1.png", "2.png"]


def test_a_picture_without_a_face_has_none(client: TestClient) -> None:
    (picture,) = send(client, "/v1/faces", encode(np.full((60, 90, 3), 120, np.uint8))).json()["pictures"]
    assert picture == {"name": "0.png", "width": 90, "height": 60, "faces": [], "error": None}


def test_one_bad_picture_does_not_lose_the_others(client: TestClient) -> None:
    cut_short = encode(noise(200, 200))[:-50]
    crops = send(client, "/v1/crops", b"no", encode(noise()), cut_short).json()["crops"]
    assert [crop["error"] and crop["error"]["code"] for crop in crops] == ["unknown_format", None, "unreadable_picture"]
    assert crops[1]["expression"]["label"] in tiny.CLASSES
    answer = send(client, "/v1/crops", cut_short, b"no")
    assert error_of(answer) == (422, "unreadable_picture")
    assert answer.json()["error"]["message"].startswith("0.png is damaged or truncated")


def test_a_bomb_is_refused_by_its_header(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "decode_picture", lambda *_: pytest.fail("it was decoded"))
    assert error_of(send(client, "/v1/faces", png_header(50_000, 50_000))) == (413, "too_many_pixels")


def test_what_is_no_picture_form_is_refused(client: TestClient) -> None:
    assert error_of(client.post("/v1/faces", json={"path": "/etc/passwd"})) == (415, "not_a_form")
    text = {"pictures": (None, "http://127.0.0.1/a.jpg")}
    assert error_of(client.post("/v1/faces", files=text)) == (422, "not_a_file")
    assert error_of(send(client, "/v1/faces", *[encode(noise())] * 4)) == (413, "too_many_files")
    assert error_of(send(client, "/v1/faces", encode(noise()), faces="some")) == (422, "invalid_parameter")
    assert error_of(send(client, "/v1/faces", encode(noise()), min_score="nan")) == (422, "invalid_parameter")
    assert error_of(client.get("/v1/nothing")) == (404, "not_found")
    answer = client.get("/v1/faces")
    assert error_of(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


def test_a_body_that_is_too_large_is_refused(recognizer: Recognizer) -> None:
    with TestClient(serve.create_app(recognizer, Limits(megabytes=0.1))) as client:
        assert error_of(send(client, "/v1/faces", bytes(100_001))) == (413, "body_too_large")
        assert error_of(client.post("/v1/faces", content=iter([bytes(60_000)] * 2))) == (413, "body_too_large")


@pytest.mark.usefixtures("two_faces")
def test_the_options_choose_faces(recognizer: Recognizer) -> None:
    picture = encode(noise(300, 400))
    with TestClient(serve.create_app(recognizer, Limits(faces=1))) as client:
        assert error_of(send(client, "/v1/faces", picture)) == (413, "too_many_faces")
        for query in ({"faces": "largest"}, {"min_score": 0.97}):
            (found,) = send(client, "/v1/faces", picture, **query).json()["pictures"]
            assert [face["box"] for face in found["faces"]] == [[60, 20, 160, 150]]


def test_a_request_cant_ask_for_a_search_of_any_length(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    smallest = []

    def find(pixels: np.ndarray, smallest_px: float) -> list[Face]:
        smallest.append((max(pixels.shape), round(smallest_px)))
        return []

    monkeypatch.setitem(detect.FINDERS, "mtcnn", find)
    picture = encode(np.zeros((100, 6400, 3), np.uint8))
    for query in ({}, {"min_face_px": 1}, {"min_face_px": 100}, {"min_face_px": 400}):
        smallest.clear()
        assert send(client, "/v1/faces", picture, **query).status_code == 200
        expected = {400: (320, 20)}.get(query.get("min_face_px", 0), (1280, 20))
        assert smallest[-1] == expected


def test_the_model_is_described_without_paths_of_the_trainer(client: TestClient) -> None:
    model = client.get("/v1/model").json()
    assert model["classes"] == list(tiny.CLASSES)
    assert model["contract"]["crop_px"] == 32
    assert model["details"] == {"method": "fn2en"}
    assert model["limits"]["pictures"] == 3


def test_a_token_guards_all_but_the_page_and_health(recognizer: Recognizer) -> None:
    with TestClient(serve.create_app(recognizer, token="sesame")) as client:
        for path in ("/", "/app.js", "/engine.js", "/healthz", "/openapi.json"):
            assert client.get(path).status_code == 200, path
        for path in ("/v1/model", "/metrics"):
            assert error_of(client.get(path)) == (401, "no_token")
        answer = send(client, "/v1/crops", encode(noise()))
        assert error_of(answer) == (401, "no_token")
        assert answer.headers["www-authenticate"] == "Bearer"
        client.headers["Authorization"] = "Bearer sesame"
        assert send(client, "/v1/crops", encode(noise())).status_code == 200


def test_a_client_that_asks_too_often_is_told_to_wait(recognizer: Recognizer) -> None:
    with TestClient(serve.create_app(recognizer, Limits(rate=0.5))) as client:
        assert client.get("/v1/model").status_code == 200
        answer = client.get("/v1/model")
        assert error_of(answer) == (429, "too_many_requests")
        assert 1 <= int(answer.headers["retry-after"]) <= 2
        assert client.get("/healthz").status_code == 200


def test_other_web_sites_may_call_only_if_they_are_named(recognizer: Recognizer) -> None:
    origin = {"Origin": "https://example.org"}
    with TestClient(serve.create_app(recognizer)) as client:
        assert "access-control-allow-origin" not in client.get("/v1/model", headers=origin).headers
    with TestClient(serve.create_app(recognizer, cors_origins=["https://example.org"])) as client:
        assert client.get("/v1/model", headers=origin).headers["access-control-allow-origin"] == "https://example.org"
        other = client.get("/v1/model", headers={"Origin": "https://example.com"})
        assert "access-control-allow-origin" not in other.headers


def test_a_service_of_this_machine_answers_to_its_own_names_only(recognizer: Recognizer) -> None:
    with TestClient(serve.create_app(recognizer, hosts=["localhost"]), base_url="http://localhost") as client:
        assert client.get("/v1/model").status_code == 200
        assert client.get("/v1/model", headers={"Host": "evil.example"}).status_code == 400


def test_the_page_may_load_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "connect-src 'self'" in page.headers["content-security-policy"]
    assert client.get("/engine.js").text == (WEB / "engine_server.js").read_text(encoding="utf-8")
    for file in WEB.rglob("*.*"):
        assert "https://" not in file.read_text(encoding="utf-8").replace("over HTTPS", ""), file
    assert client.get("/../serve.py").status_code == 404
    assert client.get("/..%2fserve.py").status_code == 404


def test_requests_faces_and_batches_are_counted(client: TestClient) -> None:
    send(client, "/v1/crops", encode(noise()), encode(noise(seed=1)))
    send(client, "/v1/crops", b"no")
    client.get("/made/up")
    text = client.get("/metrics").text
    for line in (
        'fn2en_requests_total{path="/v1/crops",status="200"} 1.0',
        'fn2en_requests_total{path="/v1/crops",status="415"} 1.0',
        'fn2en_requests_total{path="other",status="404"} 1.0',
        "fn2en_pictures_total 2.0",
        "fn2en_faces_total 2.0",
        "fn2en_batch_pictures_sum 2.0",
        "fn2en_requests_inside 0.0",
    ):
        assert line in text
    assert "process_resident_memory_bytes" in text


class Held:
    """A recognizer that waits in every batch until it may go on."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.classes, self.contract, self.metadata = recognizer.classes, recognizer.contract, recognizer.metadata
        self.recognizer = recognizer
        self.batches: list[int] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def stream(self, pictures: list[np.ndarray], options: Any) -> Any:
        self.batches.append(len(pictures))
        self.begun.set()
        assert self.go.wait(10)
        return self.recognizer.stream(pictures, options)


def inside(client: Any) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith("fn2en_requests_inside")).rpartition(" ")[2])


def wait_until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s, "it did not come within 30 s"
        time.sleep(0.01)


def test_requests_share_batches_and_a_full_queue_is_said(recognizer: Recognizer) -> None:
    held = Held(recognizer)
    app = serve.create_app(held, Limits(queue=20, rate=0))  # type: ignore[arg-type]
    with live(app) as service, ThreadPoolExecutor(8) as pool, httpx.Client(base_url=service.url) as client:
        answers = [pool.submit(send, client, "/v1/crops", encode(noise(seed=0)))]
        assert held.begun.wait(10)
        answers += [pool.submit(send, client, "/v1/crops", encode(noise(seed=number))) for number in range(1, 5)]
        wait_until(lambda: inside(client) == 5)
        full = send(client, "/v1/crops", encode(noise()))
        assert error_of(full) == (503, "busy")
        assert full.headers["retry-after"] == "1"
        held.go.set()
        found = [answer.result().json()["crops"][0]["expression"]["probabilities"] for answer in answers]
    assert held.batches == [1, 4]
    expected = recognizer.predict([noise(seed=number) for number in range(5)], faces="whole-image").probabilities
    np.testing.assert_allclose([list(one.values()) for one in found], expected, atol=1e-6)


def test_the_service_finishes_its_requests_before_it_stops(recognizer: Recognizer) -> None:
    held = Held(recognizer)
    app = serve.create_app(held)  # type: ignore[arg-type]
    with live(app) as service, ThreadPoolExecutor(1) as pool, httpx.Client(base_url=service.url) as client:
        answer = pool.submit(send, client, "/v1/crops", encode(noise()))
        assert held.begun.wait(10)
        service.stop()
        service.thread.join(0.3)
        assert service.thread.is_alive()
        held.go.set()
        assert answer.result().status_code == 200
        service.thread.join(10)
        assert not service.thread.is_alive()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{service.url}/healthz")


def test_a_failure_of_the_service_is_no_traceback_for_the_client(
    recognizer: Recognizer, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Held(recognizer)
    broken.stream = lambda *_: 1 / 0  # type: ignore[method-assign]
    with TestClient(serve.create_app(broken)) as client:  # type: ignore[arg-type]
        answer = send(client, "/v1/crops", encode(noise()))
    assert error_of(answer) == (500, "failed")
    assert "ZeroDivisionError" not in answer.text
    assert "A picture failed: ZeroDivisionError" in caplog.text


def test_a_client_that_goes_away_is_no_error_of_the_service(
    recognizer: Recognizer, caplog: pytest.LogCaptureFixture
) -> None:
    with live(serve.create_app(recognizer)) as service, httpx.Client(base_url=service.url) as client:
        with socket.create_connection(service.url.removeprefix("http://").split(":")) as connection:
            connection.sendall(b"POST /v1/crops HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc")
            wait_until(lambda: inside(client) == 1)
        wait_until(lambda: inside(client) == 0)
        assert 'fn2en_requests_total{path="/v1/crops",status="400"} 1.0' in client.get("/metrics").text
    assert "Traceback" not in caplog.text


def test_nothing_of_a_request_is_logged(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "facenet2expnet")
    caplog.set_level(logging.INFO, "uvicorn")
    files = [("crops", ("secret-name.png", encode(noise()))), ("crops", ("secret-other.png", b"no"))]
    assert client.post("/v1/crops", files=files).status_code == 200
    assert "secret" not in caplog.text


def test_connections_do_not_wait_to_send_small_answers() -> None:
    with serve.listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_that_is_taken_is_said() -> None:
    with serve.listen("127.0.0.1", 0) as taken, pytest.raises(UserError, match="choose another by --host and --port"):
        serve.listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match=r"can't listen at 192\.0\.2\.1, port 80"):
        serve.listen("192.0.2.1", 80)


def test_every_answer_is_in_the_openapi_description(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/v1/faces", "/v1/crops", "/v1/model", "/metrics", "/healthz"}
    post = described["paths"]["/v1/faces"]["post"]
    assert {"200", "400", "401", "408", "413", "415", "422", "429", "503"} <= set(post["responses"])
    schema = post["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert schema["properties"]["pictures"]["items"] == {"type": "string", "format": "binary"}
