"""Damage files in ways that a seed determines: any bytes, JSON values, and pictures."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

Rng = np.random.Generator
Mutation = Callable[[bytes, Rng], bytes]

SIZES = (0, 1, 2, 127, 255, 256, 32_767, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1)
"""Numbers that are written over the lengths and sizes of a file."""

JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 10**9, 10**30, 1e308, float("nan"), float("inf"), "", "x", "../../x", "é\ud800", "\x00",
    [], {}, [1, "a", None], {"a": {}}, [[]] * 3, "9" * 5000,
)  # fmt: skip
"""Values that take the place of any value of a JSON file."""


def flip_bits(content: bytes, rng: Rng) -> bytes:
    """Change one to sixteen bits."""
    changed = bytearray(content)
    for place in rng.integers(0, max(1, len(changed)), rng.integers(1, 17)) if changed else ():
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def flip_head(content: bytes, rng: Rng) -> bytes:
    """Change bits within the first hundred bytes, where sizes and kinds are."""
    return flip_bits(content[:100], rng) + content[100:]


def cut_short(content: bytes, rng: Rng) -> bytes:
    """Keep the beginning only."""
    return content[: int(rng.integers(0, len(content) + 1))]


def cut_out(content: bytes, rng: Rng) -> bytes:
    """Leave out a piece, or double it."""
    start, stop = sorted(rng.integers(0, len(content) + 1, 2).tolist())
    return content[:start] + content[start:stop] * int(rng.choice([0, 2])) + content[stop:]


def overwrite(content: bytes, rng: Rng) -> bytes:
    """Write noise, zeros or 255 over a piece."""
    start, length = int(rng.integers(0, len(content) + 1)), int(rng.integers(1, 65))
    piece = bytes([rng.bytes(length), b"\0" * length, b"\xff" * length][int(rng.integers(3))])
    return content[:start] + piece + content[start + length :]


def lie_about_size(content: bytes, rng: Rng) -> bytes:
    """Write a number of 2 or 4 bytes, of either byte order, over the first part of a file."""
    start = int(rng.integers(0, max(1, min(len(content), 512))))
    kind = "<>"[int(rng.integers(2))] + "HI"[int(rng.integers(2))]
    piece = struct.pack(kind, int(rng.choice(SIZES)) % 2 ** (8 * struct.calcsize(kind)))
    return content[:start] + piece + content[start + len(piece) :]


ANY: tuple[Mutation, ...] = (flip_bits, flip_head, cut_short, cut_out, overwrite, lie_about_size)


def swap_head(heads: list[bytes]) -> Mutation:
    """Put the head of another kind of file on this one."""

    def swap(content: bytes, rng: Rng) -> bytes:
        length = int(rng.integers(2, 65))
        return heads[int(rng.integers(len(heads)))][:length] + content[length:]

    return swap


def change_json(content: bytes, rng: Rng) -> bytes:
    """Put junk in the place of a value of a JSON file, leave a value out, or nest very deeply."""
    value = json.loads(content)
    places = list(_places(value))
    for _ in range(int(rng.integers(1, 3))):
        holder, key = places[int(rng.integers(len(places)))]
        junk = JUNK[int(rng.integers(len(JUNK)))]
        if isinstance(holder, dict) and rng.random() < 0.25:
            holder.pop(key, None)
        elif isinstance(holder, dict) or key < len(holder):
            holder[key] = junk
    if rng.random() < 0.02:
        return b'{"a":' * 50_000
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _places(value: Any) -> Any:
    """Yield the holder and the key of every value inside a JSON value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def change_lines(content: bytes, rng: Rng) -> bytes:
    """Damage a text by whole words and lines: leave out, double, swap, or put odd ones in."""
    lines = content.split(b"\n")
    odd = (
        b"",
        b"a,b",
        b'"',
        b"\xff\xfe",
        b"\0",
        b"1e999",
        b"nan",
        b"[x]",
        b"x = ",
        b"-1",
        b"9" * 5000,
        b"\xe2\x80\x8b",
    )
    place, other = rng.integers(0, len(lines), 2).tolist()
    words = lines[place].split(b",") if b"," in lines[place] else lines[place].split(b" ")
    way, piece = int(rng.integers(5)), odd[int(rng.integers(len(odd)))]
    if way == 0:
        del lines[place]
    elif way == 1:
        lines.insert(place, lines[other])
    elif way == 2:
        lines[place], lines[other] = lines[other], lines[place]
    elif way == 3:
        lines.insert(place, piece)
    else:
        words[int(rng.integers(len(words)))] = piece
        lines[place] = b",".join(words) if b"," in lines[place] else b" ".join(words)
    return b"\n".join(lines)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def mend_png(content: bytes) -> bytes:
    """Give the chunks of a damaged PNG file the right checksums, so that the damage is read."""
    if not content.startswith(b"\x89PNG"):
        return content
    whole, place = content[:8], 8
    while place + 12 <= len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        if place + 12 + length > len(content):
            break
        whole += png_chunk(content[place + 4 : place + 8], content[place + 8 : place + 8 + length])
        place += 12 + length
    return whole + content[place:]


def larger_png(content: bytes, rng: Rng) -> bytes:
    """Let a PNG file say that it is much larger than it is."""
    width, height = (int(rng.choice([9_400, 20_000, 60_000, 2**31 - 1])) for _ in range(2))
    header = struct.pack(">II", width, height) + content[24:29]
    return content[:8] + png_chunk(b"IHDR", header) + content[33:]


def png_bomb(side_px: int, mode: int) -> bytes:
    """A small PNG file of a large picture without anything in it; mode 2 is RGB, 6 RGB with transparency, 0 grey."""
    depth = 16 if mode == 0 else 8
    row = 1 + side_px * {0: 2, 2: 3, 6: 4}[mode]
    packer, pieces = zlib.compressobj(9), []
    for _ in range(side_px):
        pieces.append(packer.compress(bytes(row)))
    header = struct.pack(">IIBBBBB", side_px, side_px, depth, mode, 0, 0, 0)
    data = b"".join(pieces) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def png_text_bomb(content: bytes, rng: Rng) -> bytes:
    """Put a compressed text, or a colour profile, of 200 MB into a PNG file."""
    packed = zlib.compress(bytes(200_000_000), 1)
    kind = b"zTXt" if rng.random() < 0.5 else b"iCCP"
    return content[:33] + png_chunk(kind, b"name\0\0" + packed) + content[33:]


def with_garbage(picture: Image.Image, kind: str, rng: Rng) -> bytes:
    """Save a picture with a random colour profile, and EXIF data that are damaged."""
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(0, 12))
    exif[0x010F] = "maker" * int(rng.integers(1, 50))
    garbage = flip_bits(exif.tobytes(), rng) if rng.random() < 0.7 else b"Exif\0\0" + rng.bytes(60)
    options = {} if kind == "TIFF" else {"exif": garbage}  # the writer of TIFF reads it
    buffer = io.BytesIO()
    picture.save(buffer, kind, icc_profile=rng.bytes(int(rng.integers(1, 500))), **options)
    return buffer.getvalue()
