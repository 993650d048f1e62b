"""What strangers send: limits are kept before anything is decoded, and every refusal says why."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from live_service import FORM, chunk, encode, form, noise, png_header

from facenet2expnet.data.pictures import decode_picture
from facenet2expnet.deploy.uploads import Limits, Refused, Upload, check_picture, read_body, read_form, read_uploads
from facenet2expnet.errors import UserError

LIMITS = Limits(megabytes=0.001, megapixels=0.01)


def receive(
    *chunks: bytes, headers: dict[str, str] | None = None, pause_s: float = 0.0, limits: Limits = LIMITS
) -> bytes:
    async def stream() -> AsyncIterator[bytes]:
        for one in chunks:
            await asyncio.sleep(pause_s)
            yield one

    return asyncio.run(read_body(stream(), headers or {}, limits))


def refused(call: Any, *args: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        call(*args)
    return caught.value


def test_a_body_is_received_up_to_the_limit() -> None:
    assert receive(b"a" * 600, b"b" * 400) == b"a" * 600 + b"b" * 400
    assert refused(receive, b"a" * 600, b"b" * 401).status == 413


def test_a_body_that_is_far_too_large_is_not_read_to_its_end() -> None:
    read = []

    async def stream() -> AsyncIterator[bytes]:
        for number in range(100):
            read.append(number)
            yield b"a" * 1000

    with pytest.raises(Refused, match=r"more than 0\.001 MB"):
        asyncio.run(read_body(stream(), {}, LIMITS))
    assert len(read) == 5
    read.clear()
    with pytest.raises(Refused):
        asyncio.run(read_body(stream(), {"content-length": "5000"}, LIMITS))
    assert read == []


def test_a_body_that_comes_too_slowly_is_refused() -> None:
    slow = Limits(body_s=0.02)
    error = refused(lambda: receive(b"a", b"b", pause_s=0.5, limits=slow))
    assert (error.status, error.message) == (408, "the request did not arrive within 0.02 s")


def test_the_files_of_a_form_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a file was written")

    for name in ("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, fail)
    large = bytes(3_000_000)
    body = form(("pictures", "a.jpg", large), ("pictures", "é.png", b"two"))
    assert read_form(FORM, body, "pictures", 2) == [("a.jpg", large), ("é.png", b"two")]


@pytest.mark.parametrize(
    ("content_type", "body", "status", "message"),
    [
        ("", b"", 415, "expected multipart/form-data with files in 'pictures', got no content type"),
        ("application/json", b"{}", 415, "got application/json"),
        ("multipart/form-data", b"--xx--", 400, "No boundary"),
        (FORM, b"hello", 400, "the form can't be read"),
        (FORM, b"", 422, "the form has no file in 'pictures'"),
        (FORM, form(("pictures", None, b"/etc/passwd")), 422, "expected a file; paths and addresses are not taken"),
        (FORM, form(("url", None, b"http://example.org/a.jpg")), 422, "the form has a field 'url'"),
        (FORM, form(("image", "a.png", b"")), 422, "the form has a field 'image', expected files in 'pictures' only"),
        (FORM, form(*[("pictures", "a.png", b"")] * 3), 413, "more than 2 files"),
        (FORM, b"--xx\r\nContent-Type: image/png\r\n\r\nabc\r\n--xx--\r\n", 400, "the form can't be read"),
    ],
)  # fmt: skip
def test_a_form_that_is_not_taken_says_why(content_type: str, body: bytes, status: int, message: str) -> None:
    error = refused(read_form, content_type, body, "pictures", 2)
    assert error.status == status
    assert message in error.message


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_pictures_of_every_format_are_taken(kind: str) -> None:
    upload = check_picture("a", encode(noise(20, 30), kind), LIMITS)
    assert (upload.size_wh, upload.pixels) == ((30, 20), 600)


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 422, "is empty"),
        (b"GIF", 415, "expected JPEG, PNG, WebP, GIF or BMP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", 415, "is not a picture"),
        (encode(noise(), "TIFF"), 415, "is not a picture"),
        (png_header(101, 100), 413, "is too large: 101 x 100 pixels, the limit is 10,000 pixels"),
        (png_header(60_000, 60_000), 413, "too large"),
        (b"GIF89a" + bytes([9, 0, 9, 0, 0, 0, 0]) + b"\x21\xfe\x02hi\x00" * 100_000, 422, "it has too many parts"),
        (b"\xff\xd8" + b"\xff\xe1\x00\x09Exif\x00\x00a" * 100_000, 422, "it has too many parts"),
        (b"\xff\xd8" + b"\xff" * 100_000, 422, "it has too many parts"),
        (encode(noise(), "JPEG").replace(b"\xff\xd9", b"\xff\xda" * 101 + b"\xff\xd9"), 422, "more than 100 scans"),
    ],
)
def test_a_picture_that_is_not_taken_says_why(content: bytes, status: int, message: str) -> None:
    error = refused(check_picture, "a", content, LIMITS)
    assert error.status == status
    assert message in error.message


def test_a_picture_of_tiny_parts_is_not_decoded() -> None:
    picture = encode(noise(9, 9))
    upload = check_picture("a", picture[:-12] + chunk(b"aaAa") * 10_000 + picture[-12:], LIMITS)
    with pytest.raises(UserError, match="it has too many parts"):
        decode_picture(upload.open())
    assert decode_picture(check_picture("a", picture, LIMITS).open()).shape == (9, 9, 3)


def test_one_bad_picture_does_not_lose_the_others() -> None:
    good = encode(noise())
    body = form(("pictures", "a", b"no"), ("pictures", "b", good), ("pictures", "c", png_header(200, 200)))
    (_, first), (name, second), (_, third) = read_uploads(FORM, body, "pictures", 3, LIMITS)
    assert isinstance(first, Refused)
    assert first.code == "unknown_format"
    assert name == "b"
    assert isinstance(second, Upload)
    assert second.content == good
    assert isinstance(third, Refused)
    assert third.code == "too_many_pixels"


def test_the_pictures_of_a_request_are_limited_together() -> None:
    one = encode(np.zeros((100, 100, 3), np.uint8))
    read_uploads(FORM, form(*[("pictures", "a", one)] * 4), "pictures", 9, LIMITS)
    error = refused(read_uploads, FORM, form(*[("pictures", "a", one)] * 5), "pictures", 9, LIMITS)
    assert (error.status, error.code) == (413, "too_many_pixels")
    assert "more than 40,000 pixels together" in error.message


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("megabytes", 0, "more than 0"),
        ("pictures", 0, "1 or more"),
        ("rate", -1, "more than 0"),
        ("queue", 0, "1 or"),
        ("megapixels", 90, "89 or less"),
        ("megapixels", float("inf"), "a finite"),
        ("rate", float("nan"), "a finite"),
    ],
)
def test_impossible_limits_are_refused(name: str, value: float, expected: str) -> None:
    with pytest.raises(UserError, match=f"{name} is {value}, expected {expected}"):
        Limits(**{name: value})
    assert Limits(rate=0).rate == 0
