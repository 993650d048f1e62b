"""What a service takes from strangers: files of a form, within limits that are checked before anything is decoded."""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from PIL import Image, UnidentifiedImageError

from facenet2expnet.data.pictures import MAX_PIXELS
from facenet2expnet.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Formats that are decoded, by Pillow's names. It knows more; some of those start other programs."""

READABLE = "JPEG, PNG, WebP, GIF or BMP"

MAX_SCANS = 100
"""A progressive JPEG has about ten scans; each one costs a pass over all pixels."""

HEADER_READS, FILE_READS = 2_000, 20_000
"""How often Pillow may read from a file for its header, and in all. A camera's file takes a hundredth of that. A file
of a million tiny parts would keep it busy for hours."""

REQUEST_PICTURES = 4
"""All pictures of a request together may have so many times the pixels of the largest one that is allowed."""

CLIENT_SHARE = 4
"""One client may hold one of so many places of the queue, so that slow uploads of one do not keep out all others."""

DRAINED = 4
"""Of a body that is too large, up to so many times the limit is read and dropped: a client that still sends would not
see the answer."""


@dataclass(frozen=True)
class Limits:
    """What a service accepts.

    Attributes:
        megabytes: of a request's body.
        megapixels: of one picture; of all pictures of a request together four times as many.
        pictures: in a request.
        faces: found in a picture, or cut-out faces in a request.
        rate: requests a second of one client, over some time; 0 for no limit.
        queue: requests that are received, wait or are worked on at one time; a quarter of them from one client.
        body_s: seconds in which a body must have arrived.
    """

    megabytes: float = 20.0
    megapixels: float = 40.0
    pictures: int = 16
    faces: int = 128
    rate: float = 50.0
    queue: int = 64
    body_s: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, smallest = getattr(self, field.name), 1 if field.type == "int" else 0
            if not math.isfinite(value):
                raise UserError(f"{field.name} is {value}, expected a finite number")
            if value < smallest or (value == 0 and field.name != "rate"):
                raise UserError(f"{field.name} is {value}, expected {'1 or more' if smallest else 'more than 0'}")
        if self.pixels > MAX_PIXELS:
            raise UserError(f"megapixels is {self.megapixels:g}, expected {MAX_PIXELS // 10**6} or less")

    @property
    def body_bytes(self) -> int:
        """Largest body in bytes."""
        return round(self.megabytes * 1e6)

    @property
    def client_queue(self) -> int:
        """Requests of one client that are in the queue at one time."""
        return max(1, self.queue // CLIENT_SHARE)

    @property
    def pixels(self) -> int:
        """Largest picture in pixels."""
        return round(self.megapixels * 1e6)


class Refused(Exception):
    """A request, or one picture of it, that is not taken.

    Attributes:
        status: of HTTP.
        code: for programs.
        message: for people; what was expected, and what came.
        retry_s: seconds after which it may be taken; None if never.
    """

    def __init__(self, status: int, code: str, message: str, retry_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_s = status, code, message, retry_s


@dataclass(frozen=True, eq=False)
class Upload:
    """A picture file of a form, with a header that was read and is within the limits.

    Attributes:
        name: as the client calls it; only sent back.
        content: the file.
        size_wh: in pixels, before it is turned by its EXIF orientation.
    """

    name: str
    content: bytes
    size_wh: tuple[int, int]

    @property
    def pixels(self) -> int:
        """The number of its pixels."""
        return self.size_wh[0] * self.size_wh[1]

    def open(self) -> io.BytesIO:
        """The file, for decoding."""
        return _CountedFile(self.content, FILE_READS)


class _CountedFile(io.BytesIO):
    """A file in memory that can be read from so many times."""

    def __init__(self, content: bytes, reads: int) -> None:
        super().__init__(content)
        self.left = reads

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise OSError("it has too many parts")
        return super().read(size)


async def read_body(chunks: AsyncIterator[bytes], headers: Mapping[str, str], limits: Limits) -> bytes:
    """Receive a body, up to the limit.

    Raises:
        Refused: 408 if it comes too slowly, 413 if it is too large.
    """
    limit, received = limits.body_bytes, 0
    kept: list[bytes] = []
    too_large = Refused(413, "body_too_large", f"the request has more than {limits.megabytes:g} MB; send less at once")
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > DRAINED * limit:
        raise too_large
    try:
        async with asyncio.timeout(limits.body_s):
            async for chunk in chunks:
                received += len(chunk)
                if received > DRAINED * limit:
                    raise too_large
                if received > limit:
                    kept.clear()
                else:
                    kept.append(chunk)
    except TimeoutError:
        raise Refused(408, "too_slow", f"the request did not arrive within {limits.body_s:g} s") from None
    if received > limit:
        raise too_large
    return b"".join(kept)


def read_form(content_type: str, body: bytes, field: str, most: int) -> list[tuple[str, bytes]]:
    """Return name and content of the files of a multipart form; nothing is written to a disk.

    Args:
        content_type: the request's header.
        field: name of the form's field that holds the files; there may be no other.
        most: files that are allowed.
    Raises:
        Refused: If it is no such form, has no file or too many, or has fields that are no files.
    """
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import create_form_parser, parse_options_header

    if parse_options_header(content_type)[0] != b"multipart/form-data":
        what = content_type.partition(";")[0].strip() or "no content type"
        raise Refused(415, "not_a_form", f"expected multipart/form-data with files in '{field}', got {what[:100]}")
    files: list[tuple[str, bytes]] = []

    def on_file(part: Any) -> None:
        check_name(part)
        if len(files) == most:
            raise Refused(413, "too_many_files", f"the request has more than {most} files; send fewer at once")
        files.append(((part.file_name or b"").decode("utf-8", "replace")[:255], part.file_object.getvalue()))

    def on_field(part: Any) -> None:
        check_name(part)
        raise Refused(422, "not_a_file", f"'{field}' is text, expected a file; paths and addresses are not taken")

    def check_name(part: Any) -> None:
        name = (part.field_name or b"").decode("utf-8", "replace")
        if name != field:
            raise Refused(
                422, "unknown_field", f"the form has a field '{name[:100]}', expected files in '{field}' only"
            )

    try:
        parser = create_form_parser(
            {"Content-Type": content_type.encode("latin-1")}, on_field, on_file, {"MAX_MEMORY_FILE_SIZE": float("inf")}
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Refused(400, "damaged_form", f"the form can't be read: {error}"[:200]) from None
    if not files:
        raise Refused(422, "no_files", f"the form has no file in '{field}'")
    return files


def check_picture(name: str, content: bytes, limits: Limits) -> Upload:
    """Read a picture's header; the size that it states is checked before any pixel is decoded.

    Raises:
        Refused: 413 if it has too many pixels, 415 for another format, 422 if it is empty or damaged.
    """
    if not content:
        raise Refused(422, "unreadable_picture", "is empty (zero bytes)")
    try:
        with Image.open(_CountedFile(content, HEADER_READS), formats=FORMATS) as image:
            size, jpeg = image.size, image.format in ("JPEG", "MPO")
    except UnidentifiedImageError:
        raise Refused(415, "unknown_format", f"is not a picture that can be read, expected {READABLE}") from None
    except Image.DecompressionBombError:
        raise Refused(413, "too_many_pixels", f"is too large, the limit is {limits.pixels:,} pixels") from None
    except Exception as error:  # Pillow's readers raise nearly anything on damaged bytes
        raise Refused(422, "unreadable_picture", f"is damaged: {str(error)[:100]}") from None
    if size[0] * size[1] > limits.pixels:
        too_large = f"is too large: {size[0]} x {size[1]} pixels, the limit is {limits.pixels:,} pixels"
        raise Refused(413, "too_many_pixels", too_large)
    if jpeg and content.count(b"\xff\xda") > MAX_SCANS:
        raise Refused(422, "unreadable_picture", f"is a JPEG with more than {MAX_SCANS} scans")
    return Upload(name, content, size)


def read_uploads(
    content_type: str, body: bytes, field: str, most: int, limits: Limits
) -> list[tuple[str, Upload | Refused]]:
    """The names of a form's files in their order, each with its picture, or why that one is not taken.

    Raises:
        Refused: If the form as a whole is not taken.
    """
    uploads: list[tuple[str, Upload | Refused]] = []
    pixels = 0
    for name, content in read_form(content_type, body, field, most):
        try:
            upload = check_picture(name, content, limits)
        except Refused as refused:
            uploads.append((name, refused))
            continue
        pixels += upload.pixels
        if pixels > REQUEST_PICTURES * limits.pixels:
            together = f"the request's pictures have more than {REQUEST_PICTURES * limits.pixels:,} pixels together"
            raise Refused(413, "too_many_pixels", f"{together}; send fewer at once")
        uploads.append((name, upload))
    return uploads
