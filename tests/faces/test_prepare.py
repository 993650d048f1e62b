import importlib.util

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from facenet2expnet.crop import CropContract
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.pictures import fit_square, read_picture
from facenet2expnet.errors import UserError
from facenet2expnet.faces import detect
from facenet2expnet.faces.prepare import crop_file, crop_picture, load_crops, one_thread_each

SMALL = CropContract(stored_px=16, crop_px=14)
LOOKING = CropContract(detector="viola-jones", stored_px=16, crop_px=14)


def test_crops_in_order_and_the_unreadable_listed(pictures: Manifest) -> None:
    told: list[tuple[int, int]] = []
    pixels, rows, skipped = load_crops(pictures, SMALL, 2, progress=lambda done, of: told.append((done, of)))
    assert rows.dtype == np.int64
    assert [item.image for item in skipped] == ["anger/2b.jpg"]
    assert "not a picture" in skipped[0].reason
    assert len(pixels) == len(rows) == 10
    for crop, row in zip(pixels, rows, strict=True):
        np.testing.assert_array_equal(crop, fit_square(read_picture(pictures.paths[row]), 16))
    assert told == [(n + 1, 11) for n in range(11)]


def test_one_thread_gives_what_four_give(pictures: Manifest) -> None:
    one, four = (load_crops(pictures, SMALL, workers)[0] for workers in (1, 4))
    np.testing.assert_array_equal(one, four)


@pytest.mark.parametrize(("missing", "kept"), [("drop", False), ("centre-crop", True)])
def test_a_picture_without_a_face(missing: str, kept: bool) -> None:
    ready = crop_picture(np.full((40, 60, 3), 90, np.uint8), LOOKING, missing=missing)
    assert not ready.found
    assert ready.reason.startswith("no face found")
    assert (ready.crop is not None) == kept


def test_a_picture_with_a_face_is_cut_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[20:60, 30:70] = 200
    box = np.array([30.0, 20, 70, 60])
    monkeypatch.setattr(detect, "find_faces", lambda pixels, contract: [detect.Face(box, 1.0)])
    tight = CropContract(detector="viola-jones", stored_px=40, crop_px=40, margin=0.0)
    ready = crop_picture(picture, tight)
    assert ready.found
    assert ready.crop is not None
    assert (ready.crop == 200).all()


def test_an_unknown_choice_for_missing_faces_is_refused(pictures: Manifest) -> None:
    with pytest.raises(UserError, match="missing is 'skip', expected one of drop, centre-crop"):
        load_crops(pictures, SMALL, missing="skip")


def test_nothing_left_is_an_error_with_the_commonest_reason(
    pictures: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "find_faces", lambda pixels, contract: [])
    with pytest.raises(
        UserError, match="none of the 11 pictures could be made ready; most often: no face found"
    ):
        load_crops(pictures, LOOKING, 2)


def test_a_file_that_is_not_there_is_told() -> None:
    from pathlib import Path

    ready = crop_file(Path("no such picture.png"), SMALL)
    assert ready.crop is None
    assert "not found" in ready.reason


def test_the_libraries_threads_are_given_back() -> None:
    before = cv2.getNumThreads(), torch.get_num_threads()
    with one_thread_each():
        assert torch.get_num_threads() == 1
    assert (cv2.getNumThreads(), torch.get_num_threads()) == before


@pytest.mark.skipif(importlib.util.find_spec("mtcnn") is None, reason="the package mtcnn is not installed")
def test_a_turned_photograph_is_turned_back(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The astronaut, upright and turned by 20 degrees, gives nearly the same crop."""
    data = pytest.importorskip("skimage.data")
    picture = data.astronaut()
    turn = cv2.getRotationMatrix2D((225, 120), 20, 1.0)
    turned = cv2.warpAffine(picture, turn, (512, 512), borderMode=cv2.BORDER_REPLICATE)
    Image.fromarray(turned).save(tmp_path / "turned.png")
    contract = CropContract(detector="mtcnn", template="eyes-mouth", stored_px=64, crop_px=56)
    upright, back = crop_picture(picture, contract), crop_file(tmp_path / "turned.png", contract)
    assert upright.crop is not None
    assert back.crop is not None
    inner = slice(12, 52)
    a, b = (np.asarray(crop, float)[inner, inner].ravel() for crop in (upright.crop, back.crop))
    assert np.corrcoef(a, b)[0, 1] > 0.95
