"""The audit finds every kind of planted fault and nothing in clean data."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_duplicates import PICTURES, changed

from facenet2expnet.data import sources
from facenet2expnet.data.audit import audit, blank_kind
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.splits import Split, choose
from facenet2expnet.errors import UserError

PIXELS = PICTURES[[0, 1, 2, 0, 1, 3]]


def manifest_of(labels: list[str], **columns: list[str]) -> Manifest:
    images = [f"{number}.png" for number in range(len(labels))]
    return Manifest(pd.DataFrame({"image": images, "label": labels, **columns}), Path())


def test_identical_pictures_across_the_split(tmp_path: Path) -> None:
    manifest = manifest_of(list("xyxxyy"), split=["train", "train", "train", "test", "train", "test"])
    found = audit(manifest, PIXELS)
    counts = found.counts
    assert (counts["identical_pictures"], counts["identical_leaks"]) == (4, 1)
    assert found.tables["identical"]["group"].nunique() == 2
    leak = found.tables["leaks"].iloc[0]
    assert list(leak) == ["split", "test", 3, "3.png", 0, "0.png", "identical"]
    assert not found.clean
    assert "1 test or validation pictures have an identical copy in the training part." in found.lines()
    again = json.loads(json.dumps(found.to_dict()))
    assert again["counts"] == counts
    assert again["tables"]["leaks"][0]["image"] == "3.png"
    assert [path.name for path in found.save(tmp_path)] == ["identical.csv", "leaks.csv"]
    assert len(pd.read_csv(tmp_path / "identical.csv")) == 4


def test_copies_on_one_side_are_no_leak() -> None:
    manifest = manifest_of(list("xyxxyy"), split=[*["train"] * 5, "test"])
    found = audit(manifest, PIXELS)
    assert found.clean
    assert found.lines() == ["4 pictures are copies of one another, none across a split."]


def test_conflicting_and_missing_labels() -> None:
    found = audit(manifest_of(["x", "y", "x", "y", "y", ""]), PIXELS)
    faults = found.tables["labels"]
    assert sorted(faults.loc[faults["fault"] == "labels differ", "image"]) == ["0.png", "3.png"]
    assert list(faults.loc[faults["fault"] == "no label", "image"]) == ["5.png"]


def test_blank_pictures() -> None:
    rng = np.random.default_rng(0)
    grey = PIXELS[0] // 6  # a dark face
    noise = np.clip(120 + rng.normal(0, 2, PIXELS[0].shape), 0, 255).astype(np.uint8)
    faces = np.stack([np.zeros_like(grey), np.full_like(grey, 255), np.full_like(grey, 90), noise, grey, PIXELS[1]])
    found = audit(manifest_of(list("xyxyxy")), faces, cheap=True)
    assert list(found.tables["blank"]["row"]) == [0, 1, 2, 3]
    assert list(found.tables["blank"]["kind"]) == ["black", "white", "constant", "nearly constant"]
    assert "4 pictures are blank: black, white, or of one grey level or nearly so." in found.lines()
    red = np.zeros_like(grey)
    red[..., 0] = PIXELS[0][..., 0]
    assert blank_kind(red) == ""


def test_grey_pictures_are_listed_if_classes_differ_in_their_share() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (44, 8, 8, 3), dtype=np.uint8)
    pixels[::2] = pixels[::2, ..., :1]
    found = audit(manifest_of(["x", "y"] * 21 + ["x", ""]), pixels, cheap=True)
    assert found.tables["grey"]["row"].tolist() == list(range(0, 44, 2))
    assert (
        "22 pictures have no colour, in some classes far more than in others: a network may learn that."
        in found.lines()
    )
    assert found.clean  # it is no leak between the parts
    assert audit(manifest_of(["x", "x", "y", "y"] * 11), pixels, cheap=True).counts["grey"] == 0
    assert audit(manifest_of(["x", "y"] * 11), pixels[::2], cheap=True).counts["grey"] == 0
    assert audit(manifest_of([""] * 44), pixels, cheap=True).counts["grey"] == 0
    few = manifest_of(["x", "x", "y", "y"] * 11 + ["z"] * 4)  # a class of four, all of them in colour
    assert audit(few, np.concatenate([pixels, pixels[1:8:2]]), cheap=True).counts["grey"] == 0
    blank = np.concatenate([pixels[::2][:20], pixels[:4] * 0, pixels[::2]])  # black pictures do not count
    assert audit(manifest_of(["x"] * 24 + ["y"] * 22), blank, cheap=True).counts["grey"] == 0


def test_an_unlabelled_copy_in_training_is_a_leak() -> None:
    manifest = manifest_of(["", "y", "x", "x", "y", "y"], split=["train", "train", "valid", "valid", "train", "train"])
    assert audit(manifest, PIXELS).counts["identical_leaks"] == 1
    assert audit(manifest, PIXELS, choose(manifest).splits).counts["identical_leaks"] == 0


def test_near_duplicates_across_the_split() -> None:
    pixels = np.stack([PICTURES[0], PICTURES[1], changed(PICTURES[0])[0]])
    manifest = manifest_of(list("xyx"), split=["train", "train", "test"])
    found = audit(manifest, pixels)
    assert list(found.tables["near"][["first", "second"]].iloc[0]) == [0, 2]
    assert found.counts["near_leaks"] == 1
    assert audit(manifest, pixels, cheap=True).counts["near_pairs"] == 0


def test_subject_and_sequence_on_two_sides() -> None:
    manifest = manifest_of(
        list("xyxy"),
        subject=["a", "a", "a", "b"],
        sequence=["1", "2", "1", "1"],
        split=["train", "train", "test", "test"],
    )
    found = audit(manifest)
    assert list(found.tables["group_leakage"].itertuples(index=False, name=None)) == [
        ("split", "subject", "a", "train", "test"),
        ("split", "sequence", "a/1", "train", "test"),
    ]
    assert found.counts["subject_leaks"] == found.counts["sequence_leaks"] == 1


def test_subject_groups_are_clean() -> None:
    manifest = manifest_of(["x", "y"] * 10, subject=[f"S{n // 2}" for n in range(20)])
    found = audit(manifest, None, choose(manifest, folds=5).splits)
    assert found.clean
    assert found.lines() == ["Nothing was found in 20 pictures (labels, subjects and sequences)."]


def test_one_person_with_two_ids() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 1, (4, 16))
    centres[3] = centres[1]
    who = np.repeat(np.arange(4), 5)
    embeddings = centres[who] + rng.normal(0, 0.02, (20, 16))
    manifest = manifest_of(["x", "y"] * 10, subject=[f"S{n}" for n in who])
    found = audit(manifest, embeddings=embeddings)
    ((first, second, distance),) = found.tables["same_subject"].itertuples(index=False, name=None)
    assert (first, second) == ("S1", "S3")
    one, other = embeddings[who == 1], embeddings[who == 3]
    assert distance == pytest.approx(np.sqrt(((one[:, None] - other[None]) ** 2).sum(-1).mean()))
    assert "1 pairs of subjects look like one person with two IDs." in found.lines()
    assert not len(audit(manifest_of(["x", "y"]), embeddings=np.zeros((2, 4))).tables["same_subject"])


def test_several_splits() -> None:
    splits = [
        Split("one", np.array([0, 1]), np.array([2, 3])),
        Split("two", np.array([0, 3]), np.array([1, 2])),
    ]
    leaks = audit(manifest_of(list("xyxx")), PICTURES[[0, 1, 2, 0]], splits).tables["leaks"]
    assert list(leaks["split"]) == ["one"]
    assert list(leaks["row"]) == [3]


def test_arrays_must_fit() -> None:
    with pytest.raises(UserError, match="expected 2 pixels, one per row of the manifest, got 3"):
        audit(manifest_of(["x", "y"]), np.zeros((3, 8, 8, 3), np.uint8))


@pytest.mark.data
@pytest.mark.skipif("FN2EN_FER2013" not in os.environ, reason="FN2EN_FER2013 does not name FER2013's folder")
def test_fer2013_has_copies_of_publictest_in_training() -> None:
    """The zip form; unlabelled pictures of Training count as training pictures."""
    root = Path(os.environ["FN2EN_FER2013"])
    manifest = sources.read("fer2013", root, unlabelled="keep")
    packed = sources.get("fer2013").pictures
    assert packed is not None
    pictures = packed(root)
    assert pictures is not None
    grey = {name: np.asarray(Image.open(io.BytesIO(content)).convert("L")) for name, content in pictures}
    found = audit(manifest, np.stack([grey[image] for image in manifest.table["image"]]), cheap=True)
    assert found.counts["identical_leaks"] == 279
