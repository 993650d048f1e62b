"""Identical and nearly identical pictures, and their removal from the training side of a split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from facenet2expnet.data.splits import HELD_OUT, Split
from facenet2expnet.errors import UserError

HASH_BITS = 255
NEAR_BITS = 24
"""Two pictures are near-duplicates if at most this many bits of their hashes differ.

Measured on 48 x 48 faces of FER2013: JPEG at quality 50 changes at most 22 bits, a fifth less contrast at
most 6. The nearest of 12,000 other pictures is 90 bits away in the median. Of the 475 pairs in the set within
24 bits, 24 were drawn and inspected: all were the same photograph. A face cropped two pixels tighter differs in
76 bits and is not found.
"""

NEAR_LIMIT = 50_000
"""`count_near` skips more pictures than this. All pairs of 50,000 pictures take 13 seconds on one core."""

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
    for row in range(len(pixels)):  # one at a time: a store of large faces would not fit in memory
        picture = np.asarray(pixels[row])
        grey = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        waves = dctn(small, norm="ortho")[:_LOW, :_LOW].ravel()[1:]
        hashes[row] = waves > np.median(waves)
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


def find_copies(
    rows: np.ndarray, others: np.ndarray, groups: np.ndarray, pairs: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find a copy of each of `rows` among `others`.

    Args:
        groups: (N,) of `picture_hashes`.
        pairs: (P, 3) of `near_pairs`; None looks for identical pictures only.
    Returns:
        The row of the first copy, (len(rows),) int64, -1 if there is none; and how it is a copy, (len(rows),) str:
        "identical", "near" or "". A near-duplicate counts only where there is no identical picture.
    """
    first = np.full(groups.max(initial=-1) + 1, -1)
    first[groups[others[::-1]]] = others[::-1]
    copies = first[groups[rows]]
    how = np.where(copies >= 0, "identical", "")
    if pairs is not None:
        both = np.concatenate([pairs[:, :2], pairs[:, 1::-1]])
        both = both[np.isin(both[:, 0], rows) & np.isin(both[:, 1], others)]
        near = pd.Series(both[:, 1]).groupby(both[:, 0]).min().reindex(rows, fill_value=-1).to_numpy()
        how = np.where((copies < 0) & (near >= 0), "near", how)
        copies = np.where(how == "near", near, copies)
    return copies, how


def remove_copies(
    splits: Sequence[Split], pixels: np.ndarray, *, near: bool = False
) -> tuple[list[Split], pd.DataFrame]:
    """Remove copies of held-out pictures from the training side of every split.

    Copies of test pictures are removed from train, validation and unlabelled, copies of validation pictures from
    train and unlabelled. A copy is identical pixel by pixel, at the size of `pixels`.

    Args:
        pixels: (N, H, W, 3) or (N, H, W) uint8, one per row of the manifest; may be memory-mapped.
        near: also remove near-duplicates (see `NEAR_BITS`); this compares all pairs of pictures.
    Returns:
        The splits, and a table of what was removed: split, part, row, kept_row, kept_part, how ("identical" or
        "near"). It is empty if nothing was removed.
    Raises:
        UserError: If no training picture is left in a split.
    """
    groups = picture_hashes(pixels)
    pairs = near_pairs(pixels, groups) if near else None
    cleaned, removed = [], []
    for split in splits:
        parts = split.parts()
        for kept_part, others in HELD_OUT.items():
            for part in others:
                rows = parts[part]
                copies, how = find_copies(rows, parts[kept_part], groups, pairs)
                found = copies >= 0
                parts[part] = rows[~found]
                table = {"row": rows[found], "kept_row": copies[found], "kept_part": kept_part, "how": how[found]}
                removed.append(pd.DataFrame(table).assign(split=split.name, part=part))
        if not len(parts["train"]):
            raise UserError(
                f"split {split.name}: all {len(split.train)} training pictures are copies of held-out pictures; "
                "list them with fn2en data audit, and add other pictures"
            )
        cleaned.append(Split(split.name, **parts))
    return cleaned, pd.concat(removed, ignore_index=True)[["split", "part", "row", "kept_row", "kept_part", "how"]]


def count_near(splits: Sequence[Split], pixels: np.ndarray, *, limit: int = NEAR_LIMIT) -> int | None:
    """Count the training pictures, unlabelled ones included, that are near-duplicates of held-out pictures.

    A picture counts once over all splits; identical pictures do not count.

    Returns:
        The number, or None for more than `limit` pictures, which are not compared.
    """
    if len(pixels) > limit:
        return None
    groups = picture_hashes(pixels)
    pairs, found = near_pairs(pixels, groups), set[int]()
    for split in splits:
        trained, held = np.append(split.train, split.unlabelled), np.append(split.test, split.validation)
        _, how = find_copies(trained, held, groups, pairs)
        found |= set(trained[how == "near"].tolist())
    return len(found)
