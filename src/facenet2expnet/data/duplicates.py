"""Identical and nearly identical pictures, and their removal from the training side of a split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.splits import SIDES, Split
from facenet2expnet.errors import UserError

HASH_BITS = 255
NEAR_BITS = 24
"""Two pictures are near-duplicates if at most this many bits of their hashes differ.

Measured on 48 x 48 faces of FER2013: JPEG at quality 50 changes at most 22 bits, a fifth less contrast at
most 6. The nearest of 12,000 other pictures is 90 bits away in the median. Of the 475 pairs in the set within
24 bits, 24 were drawn and inspected: all were the same photograph. A face cropped two pixels tighter differs in
76 bits and is not found.
"""

NEAR_LIMIT = 20_000
"""More pictures than this are compared for near-duplicates on request only: the time grows with the square.

Measured on one core: SECONDS for 20,000 pictures of 112 x 112.
"""

_SIDE, _LOW, _CHUNK = 32, 16, 2048


def picture_hashes(pixels: np.ndarray) -> np.ndarray:
    """Numbers (N,) int64, equal for pictures that are identical pixel by pixel: 0 for the first picture."""
    numbers: dict[bytes, int] = {}
    found = np.empty(len(pixels), np.int64)
    for row in range(len(pixels)):
        digest = hashlib.blake2b(np.ascontiguousarray(pixels[row]).data, digest_size=16).digest()
        found[row] = numbers.setdefault(digest, len(numbers))
    return found


def perceptual_hashes(pixels: np.ndarray) -> np.ndarray:
    """A 255-bit hash per picture: which low frequencies of the 32 x 32 grey picture are above their median.

    Args:
        pixels: (N, H, W, 3) or (N, H, W) uint8; may be memory-mapped.
    Returns:
        (N, 255) bool. Recompression, brightness and slight blur change few bits; another crop changes many.
    Source: the DCT hash of Zauner 2010 (Implementation and Benchmarking of Perceptual Image Hash Functions),
        with 16 x 16 frequencies instead of 8 x 8: with 64 bits, aligned faces of different people are too similar.
    """
    import cv2
    from scipy.fft import dctn

    hashes = np.empty((len(pixels), HASH_BITS), bool)
    for start in range(0, len(pixels), _CHUNK):
        chunk = np.asarray(pixels[start : start + _CHUNK])
        grey = chunk if chunk.ndim == 3 else [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in chunk]
        small = np.stack([cv2.resize(g, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for g in grey])
        waves = dctn(small.astype(np.float32), axes=(1, 2), norm="ortho")[:, :_LOW, :_LOW]
        flat = waves.reshape(len(chunk), -1)[:, 1:]
        hashes[start : start + len(chunk)] = flat > np.median(flat, axis=1, keepdims=True)
    return hashes


def near_pairs(pixels: np.ndarray, groups: np.ndarray | None = None, bits: int = NEAR_BITS) -> np.ndarray:
    """Pairs of pictures whose hashes differ in at most `bits` bits: (P, 3) int64 of row, later row, bits.

    Pictures of one colour are left out, and pairs with one number in `groups` (identical pictures).
    """
    signs = perceptual_hashes(pixels).astype(np.float32) * 2 - 1
    usable = np.array([np.ptp(pixels[row]) > 0 for row in range(len(pixels))], bool)
    found = [np.empty((0, 3), np.int64)]
    for start in range(0, len(signs), _CHUNK):
        rows = signs[start : start + _CHUNK]
        for other in range(start, len(signs), _CHUNK):
            products = rows @ signs[other : other + _CHUNK].T  # HASH_BITS less twice the bits that differ
            first, second = np.nonzero(products >= HASH_BITS - 2 * bits - 0.5)
            distance = np.rint((HASH_BITS - products[first, second]) / 2).astype(np.int64)
            first, second = first + start, second + other
            kept = (first < second) & usable[first] & usable[second]
            if groups is not None:
                kept &= groups[first] != groups[second]
            found.append(np.stack([first, second, distance], axis=1)[kept])
    return np.concatenate(found)


def identical_in(rows: np.ndarray, others: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The first of `others` that is identical to each of `rows`, (len(rows),) int64; -1 if there is none."""
    first = np.full(groups.max(initial=-1) + 1, -1)
    first[groups[others[::-1]]] = others[::-1]
    return first[groups[rows]]


def near_in(rows: np.ndarray, others: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The first of `others` that is a near-duplicate of each of `rows`, (len(rows),) int64; -1 if there is none."""
    both = np.concatenate([pairs[:, :2], pairs[:, 1::-1]])
    both = both[np.isin(both[:, 0], rows) & np.isin(both[:, 1], others)]
    partner = pd.Series(both[:, 1]).groupby(both[:, 0]).min()
    return partner.reindex(rows, fill_value=-1).to_numpy(dtype=np.int64)


def remove_copies(
    splits: Sequence[Split], pixels: np.ndarray, *, near: bool = False, manifest: Manifest | None = None
) -> tuple[list[Split], pd.DataFrame]:
    """Remove copies of held-out pictures from the training side of every split.

    Copies of test pictures are removed from train, validation and unlabelled, copies of validation pictures from
    train and unlabelled. A copy is identical pixel by pixel, at the size of `pixels`.

    Args:
        pixels: (N, H, W, 3) or (N, H, W) uint8, one per row of the manifest; may be memory-mapped.
        near: also remove near-duplicates (see `NEAR_BITS`); this compares all pairs of pictures.
        manifest: gives the column `image`; without it the column is "".
    Returns:
        The splits, and a table of what was removed: split, part, row, image, kept_row, kept_part, how ("identical"
        or "near"). It is empty if nothing was removed.
    Raises:
        UserError: If no training picture is left in a split.
    """
    groups = picture_hashes(pixels)
    pairs = near_pairs(pixels, groups) if near else np.empty((0, 3), np.int64)
    images = (
        np.full(len(pixels), "", object) if manifest is None else manifest.table["image"].to_numpy(object)
    )
    cleaned, removed = [], []
    for split in splits:
        parts = split.parts()
        for part, kept_part in sorted(SIDES, key=lambda side: side[1]):  # copies of test pictures first
            rows = parts[part]
            same, similar = (
                identical_in(rows, parts[kept_part], groups),
                near_in(rows, parts[kept_part], pairs),
            )
            kept_rows = np.where(same >= 0, same, similar)
            for row, kept, how in zip(rows, kept_rows, np.where(same >= 0, "identical", "near"), strict=True):
                if kept >= 0:
                    removed.append((split.name, part, row, images[row], kept, kept_part, how))
            parts[part] = rows[kept_rows < 0]
        if not len(parts["train"]):
            raise UserError(
                f"split {split.name}: all {len(split.train)} training pictures are copies of held-out pictures, so "
                "nothing is left to train on; look at the copies with: fn2en data audit DATA --out FOLDER"
            )
        cleaned.append(replace(split, **parts))
    columns = ["split", "part", "row", "image", "kept_row", "kept_part", "how"]
    return cleaned, pd.DataFrame(removed, columns=columns)


def count_near(
    splits: Sequence[Split], pixels: np.ndarray, *, limit: int = NEAR_LIMIT
) -> tuple[int | None, str]:
    """Count training pictures, unlabelled ones included, with a near-duplicate among the held-out pictures.

    Returns:
        The largest count over the splits, None if there are more pictures than `limit`; and a sentence that
        says so.
    """
    if len(pixels) > limit:
        return None, (
            f"Near-duplicates across the splits were not counted: {len(pixels):,} pictures are more than {limit:,}. "
            "The command fn2en data audit compares them."
        )
    pairs, counts = near_pairs(pixels, picture_hashes(pixels)), [0]
    for split in splits:
        trained = np.append(split.train, split.unlabelled)
        counts.append(int((near_in(trained, np.append(split.test, split.validation), pairs) >= 0).sum()))
    return max(counts), (
        f"Near-duplicates were counted, not removed: at most {max(counts)} training pictures of a split have one in "
        "its test or validation part."
    )
