"""Copies of held-out pictures are found and removed from the training side."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from facenet2expnet.data import duplicates
from facenet2expnet.data.duplicates import (
    count_near,
    near_pairs,
    perceptual_hashes,
    picture_hashes,
    remove_copies,
)
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.splits import Split, choose, with_unlabelled
from facenet2expnet.errors import UserError

RNG = np.random.default_rng(0)


def picture() -> np.ndarray:
    """A random picture (48, 48, 3) with less energy at high frequencies, like a photograph."""
    layers = [
        cv2.resize(RNG.normal(0, 120 / side, (side, side)), (48, 48), interpolation=cv2.INTER_CUBIC)
        for side in (3, 6, 12, 24, 48)
    ]
    grey = np.clip(128 + np.sum(layers, axis=0), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def changed(original: np.ndarray) -> list[np.ndarray]:
    """The picture recompressed, brightened and blurred."""
    _, jpeg = cv2.imencode(".jpg", original, [cv2.IMWRITE_JPEG_QUALITY, 60])
    brighter = np.clip(original * 0.85 + 15, 0, 255).astype(np.uint8)
    return [cv2.imdecode(jpeg, cv2.IMREAD_COLOR), brighter, cv2.GaussianBlur(original, (3, 3), 0.6)]


PICTURES = np.stack([picture() for _ in range(12)])


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def test_identical_pictures_have_the_same_number() -> None:
    assert list(picture_hashes(PICTURES[[4, 1, 2, 4, 1, 3]])) == [0, 1, 2, 0, 1, 3]
    assert len(picture_hashes(PICTURES[:0])) == 0


def test_copies_are_removed_from_every_training_part_and_listed(tmp_path: Path) -> None:
    pixels = np.lib.format.open_memmap(tmp_path / "p.npy", "w+", np.uint8, (8, 48, 48, 3))
    pixels[:] = PICTURES[[0, 1, 2, 1, 3, 2, 2, 4]]  # test: 5; validation: 3, 6; unlabelled: 1, 2
    split = Split("a", rows(0, 4, 7), rows(5), rows(3, 6), rows(1, 2))
    pixels[7] = pixels[6]
    (cleaned,), removed = remove_copies([split], np.load(tmp_path / "p.npy", mmap_mode="r"))
    assert {k: list(v) for k, v in cleaned.parts().items()} == {
        "train": [0, 4],
        "validation": [3],
        "test": [5],
        "unlabelled": [],
    }
    assert list(removed[["split", "part", "row", "kept_row", "kept_part", "how"]].itertuples(index=False)) == [
        ("a", "train", 7, 5, "test", "identical"),
        ("a", "validation", 6, 5, "test", "identical"),
        ("a", "unlabelled", 2, 5, "test", "identical"),
        ("a", "unlabelled", 1, 3, "validation", "identical"),
    ]
    again, nothing = remove_copies([cleaned], pixels)
    assert not len(nothing)
    assert list(again[0].train) == [0, 4]


def test_train_only_and_unlabelled_rows_of_a_manifest() -> None:
    table = pd.DataFrame(
        {
            "image": [f"{n}.png" for n in range(6)],
            "label": ["x", "y", "x", "y", "x", ""],
            "split": ["train", "train", "test", "test", "train", "train"],
            "train_only": [0, 0, 0, 0, 1, 0],
        }
    )
    manifest = Manifest(table, Path())
    split = with_unlabelled(manifest, choose(manifest).splits[0])
    (cleaned,), removed = remove_copies([split], PICTURES[[0, 1, 2, 3, 2, 3]])
    assert list(cleaned.train) == [0, 1]
    assert len(cleaned.unlabelled) == 0
    assert list(removed["row"]) == [4, 5]


def test_near_duplicates_are_removed_on_request() -> None:
    pixels = np.stack([PICTURES[0], PICTURES[1], changed(PICTURES[0])[0]])
    split = Split("a", rows(0, 1), rows(2))
    assert not len(remove_copies([split], pixels)[1])
    (cleaned,), removed = remove_copies([split], pixels, near=True)
    assert list(cleaned.train) == [1]
    assert list(removed["how"]) == ["near"]


def test_a_training_part_of_copies_only_is_an_error() -> None:
    split = Split("a", rows(0, 1), rows(2, 3))
    with pytest.raises(UserError, match="split a: all 2 training pictures are copies of held-out pictures"):
        remove_copies([split], PICTURES[[0, 1, 0, 1]])


def test_near_duplicates_are_counted_up_to_a_limit() -> None:
    pixels = np.stack([PICTURES[0], PICTURES[1], changed(PICTURES[0])[0], PICTURES[1]])
    split = Split("a", rows(0, 1), rows(2, 3))
    assert count_near([split, split], pixels) == 1
    assert count_near([split], pixels, limit=3) is None


def test_changed_copies_are_near_and_other_pictures_are_not() -> None:
    original = picture()
    pairs = near_pairs(np.stack([original, *changed(original), *PICTURES]))
    assert {(0, 1), (0, 2), (0, 3)} <= {(int(a), int(b)) for a, b, _ in pairs}
    assert pairs[:, 1].max() == 3


def test_pictures_of_one_colour_are_not_near_and_chunks_do_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flat = np.full((3, 48, 48, 3), 9, np.uint8)
    flat[1] = 10
    assert len(near_pairs(flat)) == 0
    pixels = np.concatenate([PICTURES[:6], np.clip(PICTURES[:1] * 0.9, 0, 255).astype(np.uint8)])
    whole = near_pairs(pixels, bits=60)
    monkeypatch.setattr(duplicates, "_CHUNK", 2)
    assert sorted(map(tuple, near_pairs(pixels, bits=60))) == sorted(map(tuple, whole))


def test_near_pairs_count_the_bits_that_differ() -> None:
    hashes = perceptual_hashes(PICTURES[:5])
    pairs = near_pairs(PICTURES[:5], bits=255)
    assert len(pairs) == 10
    assert all(bits == (hashes[a] != hashes[b]).sum() for a, b, bits in pairs)
