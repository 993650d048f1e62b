"""The leak audit: every kind of leak planted and found, clean data left alone, FER2013's known answer."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from facenet2expnet.data import sources
from facenet2expnet.data.audit import (
    Audit,
    audit,
    identical_groups,
    near_pairs,
    perceptual_hashes,
    without_leaks,
)
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.splits import Split, choose
from facenet2expnet.errors import UserError

RNG = np.random.default_rng(0)


def picture() -> np.ndarray:
    """A random picture (48, 48, 3) whose energy falls with the frequency, as in a photograph."""
    layers = [
        cv2.resize(RNG.normal(0, 120 / side, (side, side)), (48, 48), interpolation=cv2.INTER_CUBIC)
        for side in (3, 6, 12, 24, 48)
    ]
    grey = np.clip(128 + np.sum(layers, axis=0), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def manifest_of(labels: list[str], **columns: list[str]) -> Manifest:
    images = [f"{number}.png" for number in range(len(labels))]
    return Manifest(pd.DataFrame({"image": images, "label": labels, **columns}), Path())


def split(*parts: str) -> dict[str, list[str]]:
    return {"split": list(parts)}


class TestExact:
    pixels = np.stack([picture() for _ in range(4)])[[0, 1, 2, 0, 1, 3]]
    manifest = manifest_of(list("xyxxyy"), **split("train", "train", "train", "test", "train", "test"))

    def test_identical_pictures_across_the_split(self) -> None:
        found = audit(self.manifest, self.pixels)
        assert found.counts["exact_groups"] == 2
        assert found.counts["exact_pictures"] == 4
        assert found.counts["exact_leaks"] == 1
        leak = found.leaks.iloc[0]
        assert (leak["fold"], leak["part"], leak["image"], leak["train_image"]) == (
            "split",
            "test",
            "3.png",
            "0.png",
        )
        assert found.counts["near_pairs"] == 0
        assert not found.clean
        assert "1 pictures to test or select by are pixel for pixel in the training part." in found.lines()

    def test_every_twin_is_taken_out_of_training(self) -> None:
        pixels = self.pixels[[0, 0, 1, 0, 1, 3]]
        folds = choose(self.manifest).folds
        cleaned = without_leaks(folds, audit(self.manifest, pixels))
        assert list(cleaned[0].train) == [2, 4]
        assert list(cleaned[0].test) == list(folds[0].test)
        assert audit(self.manifest, pixels, cleaned).clean

    def test_on_one_side_they_are_only_told(self) -> None:
        manifest = manifest_of(list("xyxxyy"), **split("train", "train", "train", "train", "train", "test"))
        found = audit(manifest, self.pixels)
        assert found.clean
        assert "4 pictures are copies of one another, all on one side." in found.lines()

    def test_doubly_labelled(self) -> None:
        found = audit(manifest_of(["x", "y", "x", "y", "y", ""]), self.pixels)
        assert sorted(found.labels.loc[found.labels["fault"] == "labels differ", "image"]) == [
            "0.png",
            "3.png",
        ]
        assert list(found.labels.loc[found.labels["fault"] == "no label", "image"]) == ["5.png"]
        assert found.counts["doubly_labelled"] == 2
        assert found.counts["unlabelled"] == 1

    def test_a_twin_without_a_label_leaks_as_well(self) -> None:
        manifest = manifest_of(
            ["", "y", "x", "x", "y", "y"], **split("train", "train", "valid", "valid", "train", "train")
        )
        assert audit(manifest, self.pixels).counts["exact_leaks"] == 1
        assert audit(manifest, self.pixels, choose(manifest).folds).counts["exact_leaks"] == 0

    def test_groups(self) -> None:
        groups = identical_groups(self.pixels)
        assert list(groups) == [0, 1, 2, 0, 1, 3]
        assert len(identical_groups(self.pixels[:0])) == 0


class TestNear:
    def changed(self, original: np.ndarray) -> list[np.ndarray]:
        _, jpeg = cv2.imencode(".jpg", original, [cv2.IMWRITE_JPEG_QUALITY, 60])
        brighter = np.clip(original * 0.85 + 15, 0, 255).astype(np.uint8)
        return [cv2.imdecode(jpeg, cv2.IMREAD_COLOR), brighter, cv2.GaussianBlur(original, (3, 3), 0.6)]

    def test_recompressed_brightened_and_blurred_copies_are_found_and_others_are_not(self) -> None:
        original = picture()
        pixels = np.stack([original, *self.changed(original), *[picture() for _ in range(40)]])
        pairs = near_pairs(pixels, 24)
        assert {(0, 1), (0, 2), (0, 3)} <= {(int(a), int(b)) for a, b, _ in pairs}
        assert pairs[:, 1].max() == 3

    def test_across_the_split(self) -> None:
        original = picture()
        pixels = np.stack([original, picture(), self.changed(original)[0]])
        manifest = manifest_of(list("xyx"), **split("train", "train", "test"))
        found = audit(manifest, pixels)
        assert list(found.near[["first", "second", "fold"]].iloc[0]) == [0, 2, "split"]
        assert found.counts["near_leaks"] == 1
        assert list(without_leaks(choose(manifest).folds, found)[0].train) == [1]
        assert audit(manifest, pixels, cheap=True).counts["near_pairs"] == 0

    def test_pictures_of_one_colour_and_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        flat = np.full((3, 48, 48, 3), 9, np.uint8)
        flat[1] = 10
        assert len(near_pairs(flat, 24)) == 0
        pixels = np.stack([picture() for _ in range(7)])
        pixels[6] = np.clip(pixels[0] * 0.9, 0, 255)
        whole = near_pairs(pixels, 60)
        monkeypatch.setattr("facenet2expnet.data.audit._CHUNK", 2)
        assert sorted(map(tuple, near_pairs(pixels, 60))) == sorted(map(tuple, whole))
        assert np.array_equal(perceptual_hashes(pixels[..., 0])[0], perceptual_hashes(pixels[:1, ..., 0])[0])

    def test_bits_are_counted_as_they_differ(self) -> None:
        pixels = np.stack([picture() for _ in range(5)])
        hashes = perceptual_hashes(pixels)
        pairs = near_pairs(pixels, 255)
        assert len(pairs) == 10
        assert all(bits == (hashes[a] != hashes[b]).sum() for a, b, bits in pairs)


class TestTorn:
    def test_subject_and_sequence_on_two_sides(self) -> None:
        manifest = manifest_of(
            list("xyxy"),
            subject=["a", "a", "a", "b"],
            sequence=["1", "2", "1", "1"],
            **split("train", "train", "test", "test"),
        )
        found = audit(manifest)
        assert [tuple(row) for row in found.torn.itertuples(index=False)] == [
            ("split", "subject", "a", "test train", 3),
            ("split", "sequence", "a/1", "test train", 2),
        ]
        assert found.counts["subjects_torn"] == found.counts["sequences_torn"] == 1
        assert not found.clean

    def test_subject_groups_are_clean(self) -> None:
        manifest = manifest_of(["x", "y"] * 10, subject=[f"S{n // 2}" for n in range(20)])
        found = audit(manifest, None, choose(manifest, folds=5).folds)
        assert found.clean
        assert found.lines() == ["Nothing found in 20 pictures (labels, subjects and sequences)."]


class TestPersons:
    def test_one_person_under_two_names(self) -> None:
        centres = RNG.normal(0, 1, (4, 16))
        centres[3] = centres[1]
        who = np.repeat(np.arange(4), 5)
        embeddings = centres[who] + RNG.normal(0, 0.02, (20, 16))
        manifest = manifest_of(["x", "y"] * 10, subject=[f"S{n}" for n in who])
        folds = choose(manifest, folds=4).folds
        found = audit(manifest, None, folds, embeddings)
        assert list(found.persons[["first", "second"]].iloc[0]) == ["S1", "S3"]
        assert len(found.persons) == 1
        assert found.persons["fold"].iloc[0] == "fold-2"
        one, other = embeddings[who == 1], embeddings[who == 3]
        expected = np.sqrt(((one[:, None] - other[None]) ** 2).sum(-1).mean())
        assert found.persons["distance"].iloc[0] == pytest.approx(expected)
        assert "1 pairs of subjects look like one person under two IDs." in found.lines()

    def test_unknown_subjects(self) -> None:
        assert len(audit(manifest_of(["x", "y"]), None, None, np.zeros((2, 4))).persons) == 0


def test_arrays_must_fit() -> None:
    with pytest.raises(UserError, match="expected 2 pixels, one a row of the manifest, got 3"):
        audit(manifest_of(["x", "y"]), np.zeros((3, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="expected 2 embeddings"):
        audit(manifest_of(["x", "y"]), embeddings=np.zeros((1, 4)))
    with pytest.raises(ValueError, match="the table near lacks bits"):
        Audit(1, (), near=pd.DataFrame(columns=["first", "second", "first_image", "second_image", "fold"]))


def test_goes_to_json_and_csv(tmp_path: Path) -> None:
    found = audit(TestExact.manifest, TestExact.pixels)
    again = json.loads(json.dumps(found.to_dict()))
    assert again["counts"] == found.counts
    assert again["tables"]["leaks"][0]["image"] == "3.png"
    assert [path.name for path in found.save(tmp_path)] == ["exact.csv", "leaks.csv"]
    assert len(pd.read_csv(tmp_path / "exact.csv")) == 4


def test_several_folds_are_told_apart() -> None:
    pixels = np.stack([picture() for _ in range(3)])[[0, 1, 2, 0]]
    folds = [
        Split("one", np.array([0, 1]), np.array([2, 3])),
        Split("two", np.array([0, 3]), np.array([1, 2])),
    ]
    found = audit(manifest_of(list("xyxx")), pixels, folds)
    assert list(found.leaks["fold"]) == ["one"]
    assert list(found.leaks["row"]) == [3]


@pytest.mark.data
@pytest.mark.skipif("FN2EN_FER2013" not in os.environ, reason="FN2EN_FER2013 does not name FER2013's folder")
def test_fer2013_has_279_pictures_of_publictest_in_training() -> None:
    """In the zip form; five of the 279 have no label, and are missed when those are left out."""
    root = Path(os.environ["FN2EN_FER2013"])
    manifest = sources.read("fer2013", root, unlabelled="keep")
    packed = sources.get("fer2013").pictures
    assert packed is not None
    pictures = packed(root)
    assert pictures is not None
    grey = {name: np.asarray(Image.open(io.BytesIO(content)).convert("L")) for name, content in pictures}
    found = audit(manifest, np.stack([grey[image] for image in manifest.table["image"]]), cheap=True)
    assert found.counts["exact_leaks"] == 279
