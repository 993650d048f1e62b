from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facenet2expnet.crop import CropContract, Framing
from facenet2expnet.faces.align import TEMPLATE_POINTS, crop_matrix, like_box_of, similarity, warp
from facenet2expnet.faces.detect import Face

TRIANGLE = np.array([(0.0, 0.0), (4.0, 1.0), (1.0, 5.0)])


def smooth_picture(side: int) -> np.ndarray:
    """(side, side, 3) uint8 that varies slowly, so that interpolation is nearly exact."""
    y, x = np.mgrid[0:side, 0:side] / side
    return (255 * np.stack([x, y, (x + y) / 2], axis=2)).astype(np.uint8)


def test_similarity_of_points_with_themselves_is_the_identity() -> None:
    np.testing.assert_allclose(similarity(TRIANGLE, TRIANGLE), [[1, 0, 0], [0, 1, 0]], atol=1e-12)


@given(
    st.floats(-3.1, 3.1),
    st.floats(0.05, 20),
    st.floats(-500, 500),
    st.floats(-500, 500),
    st.integers(0, 2**31),
)
@settings(max_examples=50, deadline=None)
def test_similarity_is_recovered(angle: float, scale: float, dx: float, dy: float, seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(5, 2)) * 50
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = similarity(points, points @ turn.T + (dx, dy))
    np.testing.assert_allclose(found, np.column_stack([turn, (dx, dy)]), atol=1e-8 * (1 + scale) * 100)


def test_similarity_is_the_best_in_least_squares() -> None:
    """Compared with a general solver for the same four numbers."""
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(4, 2)), rng.normal(size=(4, 2))
    x, y = source.T
    one, zero = np.ones(4), np.zeros(4)
    system = np.vstack([np.column_stack([x, -y, one, zero]), np.column_stack([y, x, zero, one])])
    a, b, dx, dy = np.linalg.lstsq(system, target.T.ravel(), rcond=None)[0]
    np.testing.assert_allclose(similarity(source, target), [[a, -b, dx], [b, a, dy]], atol=1e-10)


def test_similarity_never_mirrors() -> None:
    found = similarity(TRIANGLE, TRIANGLE * (-1, 1))
    assert np.linalg.det(found[:, :2]) > 0


@pytest.mark.parametrize("source", [np.ones((3, 2)), TRIANGLE * np.nan])
def test_similarity_needs_distinct_finite_points(source: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected distinct, finite landmarks"):
        similarity(source, TRIANGLE)


def test_identity_warp_returns_the_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(warp(picture, np.array([[1.0, 0, 0], [0, 1, 0]]), 32), picture)


def test_halving_averages_and_keeps_the_place() -> None:
    """Coordinates count from the corner: half the size of a ramp is the ramp at twice the step."""
    picture = smooth_picture(128)
    half = warp(picture, np.array([[0.5, 0, 0], [0, 0.5, 0]]), 64)
    expected = picture.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(half[2:-2, 2:-2].astype(float) - expected[2:-2, 2:-2]).max() <= 1.5


def test_shrinking_does_not_alias() -> None:
    """Stripes of one pixel become grey when shrunk eight times; without a low pass they stay stripes."""
    picture = np.zeros((256, 256, 3), np.uint8)
    picture[:, ::2] = 255
    small = warp(picture, np.array([[1 / 7.7, 0, 0], [0, 1 / 7.7, 0]]), 32)
    assert np.abs(small[:, 1:-1].astype(float) - 127.5).max() < 3


def test_pixels_outside_repeat_the_edge() -> None:
    picture = np.full((20, 20, 3), 77, np.uint8)
    assert (warp(picture, np.array([[1.0, 0, 30], [0, 1, 30]]), 64) == 77).all()
    assert (warp(picture, np.array([[1.0, 0, 500], [0, 1, 500]]), 64) == 77).all()


def test_cutting_out_the_needed_part_changes_nothing() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    matrix = np.array([[0.4, -0.1, -60.0], [0.1, 0.4, -80.0]])
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ (90, 70)
    small = warp(picture, matrix, 40)
    np.testing.assert_allclose(warp(picture[70:, 90:], shifted, 40).astype(int), small.astype(int), atol=1)


@pytest.mark.parametrize("template", sorted(TEMPLATE_POINTS))
def test_landmarks_are_mapped_to_the_template(template: str) -> None:
    """A face drawn by the template, then rotated, scaled and shifted, is mapped back."""
    contract = CropContract(detector="mtcnn", template=template, stored_px=128, crop_px=112)
    targets = TEMPLATE_POINTS[template]
    upright = np.zeros((5, 2))
    for index, place in TEMPLATE_POINTS["eyes-mouth"].items():
        upright[index] = place
    turn = 300 * np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
    points = upright @ turn.T + (200, 40)
    matrix = crop_matrix(Face(np.zeros(4), 1.0, points), contract)
    for index, place in targets.items():
        found = matrix[:, :2] @ points[index] + matrix[:, 2]
        np.testing.assert_allclose(found, np.array(place) * 128, atol=1e-6)


def test_box_is_made_square_and_wider() -> None:
    contract = CropContract(detector="mtcnn", stored_px=60, crop_px=50, margin=0.2)
    matrix = crop_matrix(Face(np.array([100.0, 200.0, 140.0, 250.0]), 1.0), contract)
    # The longer side, 50, and a fifth: 60 pixels about the centre (120, 225), at scale 1.
    np.testing.assert_allclose(matrix, [[1, 0, -90], [0, 1, -195]])


def test_crop_has_the_aligned_size() -> None:
    contract = CropContract(detector="mtcnn", stored_px=48, crop_px=40)
    face = Face(np.array([20.0, 20, 60, 60]), 1.0)
    matrix = crop_matrix(face, contract)
    np.testing.assert_allclose(crop_matrix(face, replace(contract, aligned_px=96)), 2 * matrix)
    crop = warp(smooth_picture(100), matrix, 48)
    assert (crop.shape, crop.dtype) == ((48, 48, 3), np.uint8)


def test_framing_places_the_box_in_the_crop() -> None:
    framing = Framing("mtcnn", (0.4, 0.6), 0.5)
    contract = CropContract(detector="mtcnn", stored_px=100, crop_px=90, framing=framing)
    matrix = crop_matrix(Face(np.array([10.0, 20.0, 50.0, 100.0]), 1.0), contract)  # centre 30, 60; longer side 80
    centre, edge = matrix[:, :2] @ (30, 60) + matrix[:, 2], matrix[:, :2] @ (30, 100) + matrix[:, 2]
    np.testing.assert_allclose(centre, (40, 60))
    np.testing.assert_allclose(edge, (40, 85))


def test_without_framing_the_margin_counts() -> None:
    contract = CropContract(detector="mtcnn", stored_px=100, crop_px=90, margin=0.25)
    matrix = crop_matrix(Face(np.array([10.0, 20.0, 50.0, 100.0]), 1.0), contract)
    np.testing.assert_allclose(matrix[:, :2] @ (30, 60) + matrix[:, 2], (50, 50))
    assert matrix[0, 0] == pytest.approx(1.0)


@pytest.mark.parametrize("detector", ["viola-jones", "dlib68"])
def test_converting_a_box_and_back_changes_nothing(detector: str) -> None:
    there = like_box_of("mtcnn", detector, 30.0, 60.0, 80.0)
    assert there != (30.0, 60.0, 80.0)
    assert like_box_of(detector, "mtcnn", *there) == pytest.approx((30.0, 60.0, 80.0))
