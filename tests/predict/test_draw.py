"""Drawings: boxes and labels that can be read on any background, and the files that they go to."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facenet2expnet.errors import UserError
from facenet2expnet.predict import draw
from facenet2expnet.predict.draw import DrawingWriter, draw_faces
from facenet2expnet.predict.results import FaceResult, FrameResult

CLASSES = ("anger", "happiness")


def face(x: float, y: float, side: float, *, track: int | None = None, smoothed: bool = False) -> FaceResult:
    values = np.array([0.1, 0.9], np.float32)
    box = np.array([x, y, x + side, y + side * 1.25])
    return FaceResult(box, 0.99, values, track, values[::-1] if smoothed else None)


def result(
    source: str, pixels: np.ndarray | None, *faces: FaceResult, frame: int = 0, moving: bool = False
) -> FrameResult:
    note = "" if faces else "no face found"
    return FrameResult(source, frame, frame / 10, faces, CLASSES, pixels, note, pixels is None, moving)


def contrast(drawn: np.ndarray, box: np.ndarray) -> float:
    """The span of grey levels within a few pixels of the left edge of a box: light line against dark edge."""
    x, y = round(float(box[0])), round(float((box[1] + box[3]) / 2))
    around = drawn[y, max(0, x - 12) : x + 12].mean(axis=1)
    return float(around.max() - around.min())


@pytest.mark.parametrize("grey", [0, 60, 130, 200, 255])
@pytest.mark.parametrize(("height", "width"), [(240, 320), (2160, 3840)])
def test_boxes_and_labels_show_on_every_background(grey: int, height: int, width: int) -> None:
    pixels = np.full((height, width, 3), grey, np.uint8)
    for track in (None, 1, 2, 3, 4, 5, 6, 7):
        one = face(width * 0.4, height * 0.4, height * 0.2, track=track)
        drawn = draw_faces(pixels, [one], CLASSES[1:])
        assert contrast(drawn, one.box_xyxy_px) > 100
        above = drawn[: round(height * 0.4) - 3].mean(axis=2)
        assert (above > 200).sum() > 60 if grey < 200 else (above < 60).sum() > 60  # letters on a dark label
    assert (pixels == grey).all()  # the picture itself is not changed


def test_the_label_grows_with_the_picture_and_stays_inside() -> None:
    sizes = {}
    for height, width in ((240, 320), (1080, 1920), (2160, 3840)):
        pixels = np.full((height, width, 3), 130, np.uint8)
        drawn = draw_faces(pixels, [face(width * 0.4, height * 0.5, height * 0.2)], CLASSES[:1])
        changed = np.flatnonzero((drawn != pixels).any(axis=(1, 2)))
        sizes[height] = height * 0.5 - changed[0]
    assert 12 <= sizes[240] < sizes[1080] < sizes[2160]
    for x, y in ((-20.0, -20.0), (290.0, -10.0), (-10.0, 200.0), (300.0, 220.0)):  # faces over the picture's edge
        drawn = draw_faces(np.full((240, 320, 3), 130, np.uint8), [face(x, y, 40)], CLASSES[:1])
        assert (drawn != 130).any()


def test_a_tiny_picture_and_a_strange_class_name_are_drawn() -> None:
    assert draw_faces(np.zeros((5, 7, 3), np.uint8), [face(0, 0, 4)], CLASSES[:1]).shape == (5, 7, 3)
    draw_faces(np.zeros((90, 90, 3), np.uint8), [face(9, 9, 40)], ["Wut\n$x_1$ 喜び" * 9])


def labels_of(faces: list[FaceResult], monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """The rectangles of the labels."""
    from facenet2expnet.predict import draw

    plain, found = draw._draw_label, []
    monkeypatch.setattr(draw, "_draw_label", lambda *given: found.append(plain(*given)) or found[-1])
    draw_faces(np.full((480, 640, 3), 130, np.uint8), faces, [CLASSES[0]] * len(faces))
    return found


def test_labels_of_neighbours_do_not_cover_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from facenet2expnet.predict.draw import _shared

    labels = labels_of([face(100 + 62 * number, 200, 60) for number in range(4)], monkeypatch)
    for number, label in enumerate(labels):
        assert sum(_shared(label, other) for other in labels[:number]) == 0
        assert 0 <= label[0] < label[2] <= 640


def test_the_smoothed_class_is_drawn_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from facenet2expnet.predict import draw

    plain, texts = draw._text, list[str]()
    monkeypatch.setattr(draw, "_text", lambda *given: texts.append(plain(*given)) or texts[-1])
    pixels = np.full((60, 80, 3), 130, np.uint8)
    result("a", pixels, face(0, 0, 9), face(30, 0, 9, track=3, smoothed=True)).draw()
    FrameResult("a", 0, 0.0, (face(0, 0, 9),), CLASSES, pixels, min_probability=0.95).draw()
    assert texts == ["happiness 90%", "#3 anger 90%", "uncertain 90%"]


def test_pictures_go_to_a_folder_under_their_names(tmp_path: Path) -> None:
    pixels = np.full((60, 80, 3), 130, np.uint8)
    with DrawingWriter(tmp_path / "drawn") as drawings:
        for name in ("a/1.jpg", "b/1.jpg", "c.webp", "0"):
            drawings.write(result(name, pixels, face(20, 20, 20)))
        drawings.write(result("damaged.png", None))
        drawings.write(result("empty.png", pixels))
    names = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert names == ["0.png", "1-2.jpg", "1.jpg", "c.png", "empty.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "drawn" / "empty.png")), pixels)
    expected = result("c", pixels, face(20, 20, 20)).draw()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "drawn" / "c.png")), expected)


def test_one_picture_goes_to_one_file(tmp_path: Path) -> None:
    pixels = np.full((60, 80, 3), 130, np.uint8)
    with DrawingWriter(tmp_path / "out.jpg") as drawings:
        drawings.write(result("a.png", pixels, face(20, 20, 20)))
        assert Image.open(tmp_path / "out.jpg").size == (80, 60)
        with pytest.raises(UserError, match="is one file, and there are several sources; give a folder"):
            drawings.write(result("b.png", pixels, face(20, 20, 20)))
    with pytest.raises(UserError, match="expected a folder, a picture, or a video that ends in"):
        DrawingWriter(tmp_path / "out.avi")
    with pytest.raises(UserError, match=r"expected \.mp4 for a video, or a folder"):
        DrawingWriter(tmp_path / "out.png").write(result("a.mp4", pixels, moving=True))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        DrawingWriter(tmp_path / "file" / "folder").write(result("a.png", pixels, face(20, 20, 20)))


def test_a_video_is_drawn_frame_by_frame(tmp_path: Path) -> None:
    pytest.importorskip("av")
    from facenet2expnet.predict.video import Every, read_video

    pixels = np.full((120, 160, 3), 130, np.uint8)
    with DrawingWriter(tmp_path / "drawn") as drawings:
        for frame in range(5):
            drawings.write(result("trip/a.mov", pixels, face(20 + 8 * frame, 40, 30), frame=frame, moving=True))
        drawings.write(result("camera:0", pixels, moving=True))
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["a.mp4", "camera-0.mp4"]
    frames = list(read_video(tmp_path / "drawn" / "a.mp4", Every()))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(5) / 10, atol=1e-3)
    expected = result("x", pixels, face(20 + 8 * 4, 40, 30)).draw()
    assert np.abs(frames[4].pixels.astype(int) - expected).mean() < 6


def test_a_result_without_pixels_can_not_be_drawn() -> None:
    with pytest.raises(ValueError, match="there are no pixels to draw on: they were not kept"):
        result("a", None, face(1, 1, 9)).draw()


@pytest.fixture
def holiday(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a picture, in the working directory."""
    (tmp_path / "hol").mkdir()
    Image.fromarray(np.full((60, 80, 3), 130, np.uint8)).save(tmp_path / "hol" / "a.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hol"


def test_the_sources_are_never_overwritten(holiday: Path) -> None:
    pixels, before = np.full((60, 80, 3), 130, np.uint8), (holiday / "a.jpg").read_bytes()
    with DrawingWriter(Path("hol"), ["hol/a.jpg"]) as drawings:
        drawings.write(result("elsewhere/a.jpg", pixels, face(20, 20, 20)))  # of the same name
        drawings.write(result("hol/a.jpg", pixels, face(20, 20, 20)))
    assert (holiday / "a.jpg").read_bytes() == before
    assert sorted(path.name for path in holiday.iterdir()) == ["a-drawn-2.jpg", "a-drawn.jpg", "a.jpg"]
    with pytest.raises(UserError, match="is one of the sources, and would be overwritten; give another name"):
        DrawingWriter(holiday / ".." / "hol" / "a.jpg", "hol/a.jpg")
    (holiday / "link.jpg").symlink_to("a.jpg")
    with pytest.raises(UserError, match="is one of the sources"):
        DrawingWriter(Path("hol/link.jpg"), ["hol/a.jpg"])


@pytest.mark.parametrize(
    ("out", "source", "message"),
    [
        (
            "hol",
            "hol",
            "hol would become a source of the next call: it is in the folder hol; choose a place outside it",
        ),
        ("hol/drawn", "hol", "hol/drawn would become a source of the next call: it is in the folder hol"),
        ("hol/b.png", ".", "hol/b.png would become a source of the next call: it is in the folder ."),
        ("hol", "hol/*.jpg", "hol would become a source of the next call: it is the folder of hol/*.jpg"),
        ("hol/drawn", "**/*.jpg", "hol/drawn would become a source of the next call: it is the folder of **/*.jpg"),
        ("hol", "all.txt", "hol would become a source of the next call: it is in the folder hol"),
    ],
)
def test_drawings_are_no_sources_of_the_next_call(holiday: Path, out: str, source: str, message: str) -> None:
    Path("all.txt").write_text("hol\nwebcam\n")
    with pytest.raises(UserError, match=re.escape(message)):
        DrawingWriter(Path(out), [source])
    assert [path.name for path in holiday.iterdir()] == ["a.jpg"]


def test_a_folder_whose_name_begins_alike_is_another(holiday: Path) -> None:
    DrawingWriter(Path("hol-drawn"), ["hol", "hol/*.jpg"])


def test_the_second_drawing_replaces_the_first(holiday: Path) -> None:
    for _ in range(2):
        with DrawingWriter(Path("drawn"), ["hol"]) as drawings:
            drawings.write(result("hol/a.jpg", np.full((60, 80, 3), 130, np.uint8)))
    assert [path.name for path in Path("drawn").iterdir()] == ["a.jpg"]


def test_many_pictures_of_one_name_are_numbered_without_a_search(tmp_path: Path) -> None:
    drawings = DrawingWriter(tmp_path)
    names = [drawings._path(result(f"{number}/a.png", None)).name for number in range(20_000)]
    assert names[:3] == ["a.png", "a-2.png", "a-3.png"]
    assert len(set(names)) == 20_000


def test_a_video_needs_pyav_before_any_work(holiday: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.new("RGB", (8, 8), grey) for grey in ("black", "white")]
    frames[0].save(holiday / "b.gif", save_all=True, append_images=frames[1:])
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(UserError, match="PyAV is needed"):
        DrawingWriter(Path("drawn"), ["hol"])
    DrawingWriter(Path("drawn"), ["hol/a.jpg"])


def test_without_matplotlib_the_font_of_pillow_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str, inside: str, advice: str) -> Path:
        raise UserError(f"{package} is not installed")

    monkeypatch.setattr(draw, "package_file", missing)
    draw._font.cache_clear()
    try:
        small, large = (draw._font(size).getlength("happiness 90%") for size in (12, 24))
    finally:
        draw._font.cache_clear()
    assert large == pytest.approx(2 * small, rel=0.1)
    assert small > 40
