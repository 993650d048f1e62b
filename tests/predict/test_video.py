"""Videos: times, rotation, damage, writing; and cameras that drop frames when their reader is late."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from facenet2expnet.errors import UserError

av = pytest.importorskip("av")

from clip import write_video  # noqa: E402

from facenet2expnet.data.pictures import count_frames as count_frames_of_picture  # noqa: E402
from facenet2expnet.predict import video  # noqa: E402
from facenet2expnet.predict.video import (  # noqa: E402
    Every,
    LatestFrame,
    VideoWriter,
    count_frames,
    read_ahead,
    read_animated_picture,
    read_camera,
    read_video,
)

ALL = Every()


def numbered(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Grey frames that get lighter, with a white corner at the top left."""
    frames = [np.full((height, width, 3), 20 + 3 * (number % 60), np.uint8) for number in range(count)]
    for frame in frames:
        frame[: height // 3, : width // 3] = 255
    return frames


def chosen(every: str | float | None, times_s: list[float]) -> list[int]:
    choose = Every(every).chooser()
    return [number for number, time_s in enumerate(times_s) if choose(number, time_s)]


def test_every_in_seconds_and_in_frames() -> None:
    steady = [number / 25 for number in range(25)]
    assert chosen("0.2s", steady) == [0, 5, 10, 15, 20]
    assert chosen(0.2, steady) == [0, 5, 10, 15, 20]
    assert chosen("10 frames", steady) == chosen("10f", steady) == [0, 10, 20]
    assert chosen(None, steady) == list(range(25))
    assert chosen("0.5s", [0.0, 0.1, 0.49, 0.7, 0.8, 1.9, 2.0]) == [0, 3, 5, 6]  # a variable rate


@pytest.mark.parametrize("text", ["0", "0s", "-1s", "often", "1.5f", "2 m", ""])
def test_every_that_is_none(text: str) -> None:
    with pytest.raises(UserError, match=r"expected a time as 0\.2s, or a number of frames as 5f"):
        Every(text)


def test_frames_come_in_order_with_their_times(tmp_path: Path) -> None:
    frames = numbered(30)
    path = write_video(tmp_path / "a.mp4", frames)
    found = list(read_video(path, ALL))
    assert [frame.number for frame in found] == list(range(30))
    np.testing.assert_allclose([frame.time_s for frame in found], np.arange(30) / 25, atol=1e-3)
    for frame, expected in zip(found, frames, strict=True):
        assert np.abs(frame.pixels.astype(int) - expected).mean() < 4
    assert [frame.number for frame in read_video(path, Every("0.4s"))] == [0, 10, 20]
    assert (count_frames(path, ALL), count_frames(path, Every("0.4s")), count_frames(path, Every("7f"))) == (30, 3, 5)


def test_a_variable_rate_keeps_its_times(tmp_path: Path) -> None:
    times_s = [0.0, 0.04, 0.5, 0.54, 2.0]
    path = write_video(tmp_path / "a.mp4", numbered(5), times_s=times_s)
    np.testing.assert_allclose([frame.time_s for frame in read_video(path, ALL)], times_s, atol=2e-3)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_turned_video_is_upright(rotation: int, tmp_path: Path) -> None:
    """As OpenCV shows it."""
    path = write_video(tmp_path / "a.mp4", numbered(2, 48, 80), rotation=rotation)
    read, expected = cv2.VideoCapture(str(path)).read()
    found = next(read_video(path, ALL)).pixels
    assert read
    assert found.shape == expected.shape == ((48, 80, 3) if rotation in (0, 180) else (80, 48, 3))
    assert np.abs(found[..., ::-1].astype(int) - expected).mean() < 4


def test_a_truncated_video_gives_the_frames_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(40)]
    whole = write_video(tmp_path / "whole.mkv", noise, codec="mpeg4").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 6 // 10])
    count = len(list(read_video(tmp_path / "cut.mkv", ALL)))
    assert 15 <= count <= 30
    mp4 = write_video(tmp_path / "whole.mp4", noise).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(mp4[: len(mp4) // 2])  # its index is at the end
    with pytest.raises(UserError, match="is not a video that can be read, or is cut short"):
        next(read_video(tmp_path / "cut.mp4", ALL))
    start = write_video(tmp_path / "start.mp4", noise, options={"movflags": "faststart"}).read_bytes()
    (tmp_path / "early.mp4").write_bytes(start[: len(start) // 2])
    assert 10 <= len(list(read_video(tmp_path / "early.mp4", ALL))) <= 30
    assert "early.mp4: damaged or cut short" in caplog.text


def test_damage_in_the_middle_does_not_lose_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(60)]
    path = write_video(tmp_path / "a.mkv", noise, codec="mpeg4")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 9000] = bytes(9000)
    path.write_bytes(content)
    numbers = [frame.number for frame in read_video(path, ALL)]
    assert len(numbers) >= 40


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"this is a text, not a video\n" * 50, "is not a video that can be read"),
        (bytes(3000), "is not a video that can be read"),
    ],
)
def test_a_file_that_is_no_video(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(UserError, match=message):
        next(read_video(tmp_path / "a.mp4", ALL))
    assert count_frames(tmp_path / "a.mp4", ALL) == 0
    with pytest.raises(UserError, match="was not found"):
        next(read_video(tmp_path / "b.mp4", ALL))


def test_a_video_without_frames_or_pictures(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "none.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(1, 64)[0], format="rgb24")))
        container.mux(stream.encode())
    whole = (tmp_path / "none.mp4").read_bytes()
    begin, end = whole.index(b"mdat"), whole.index(b"moov")
    (tmp_path / "none.mp4").write_bytes(whole[: begin + 4] + bytes(end - begin - 8) + whole[end - 4 :])
    with pytest.raises(UserError, match="without frames that can be read"):
        list(read_video(tmp_path / "none.mp4", ALL))
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=44100)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 44100
        container.mux(sound.encode(samples))
        container.mux(sound.encode())
    with pytest.raises(UserError, match="has sound but no pictures"):
        list(read_video(tmp_path / "sound.mp4", ALL))


def test_without_pyav_the_install_command_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(UserError, match=r"PyAV is needed; pip install 'facenet2expnet\[video\]'"):
        next(read_video(tmp_path / "a.mp4", ALL))


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_animated_pictures_are_videos(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    frames = [frame // (number + 1) for number, frame in enumerate(numbered(4))]
    first, *rest = map(Image.fromarray, frames)
    first.save(path, save_all=True, append_images=rest, duration=[100, 200, 300, 100], loop=0)
    assert count_frames_of_picture(path) == 4
    found = list(read_animated_picture(path, ALL))
    np.testing.assert_allclose([frame.time_s for frame in found], [0, 0.1, 0.3, 0.6], atol=1e-3)
    assert np.abs(found[2].pixels.astype(int) - frames[2]).mean() < 8


def test_reading_ahead_keeps_order_and_passes_errors_on() -> None:
    def frames():  # type: ignore[no-untyped-def]
        yield from numbered(6)
        raise UserError("the end is damaged")

    ahead = read_ahead(frames())
    assert [int(next(ahead)[0, 47, 2]) for _ in range(6)] == [20, 23, 26, 29, 32, 35]  # type: ignore[call-overload]
    with pytest.raises(UserError, match="the end is damaged"):
        next(ahead)
    endless = read_ahead(iter(lambda: 1, 2))  # type: ignore[arg-type]
    assert [next(endless), next(endless)] == [1, 1]
    endless.close()  # type: ignore[attr-defined]


def test_a_late_reader_of_a_camera_loses_frames_and_does_not_lag() -> None:
    begin = time.monotonic()

    def next_frame() -> np.ndarray | None:
        time.sleep(0.01)
        return np.full((4, 4, 3), 7, np.uint8) if time.monotonic() - begin < 1.0 else None

    lags, numbers = [], []
    for frame in LatestFrame(next_frame):
        lags.append(time.monotonic() - begin - frame.time_s)
        numbers.append(frame.number)
        time.sleep(0.1)
    assert 4 <= len(numbers) <= 11
    assert numbers == sorted(set(numbers))
    assert numbers[-1] >= 2 * len(numbers)  # many were lost between
    assert np.median(lags) < 0.15


def test_an_error_of_a_camera_reaches_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> np.ndarray | None:
        raise UserError("the cable is out")

    with pytest.raises(UserError, match="the cable is out"):
        next(iter(LatestFrame(fail)))
    monkeypatch.setattr(video, "NO_FRAME_S", 0.05)

    def hang() -> np.ndarray | None:
        time.sleep(0.5)
        return None

    with pytest.raises(UserError, match="gave no frame for"):
        next(iter(LatestFrame(hang)))


def test_a_video_plays_as_a_camera_would(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered(25))
    begin, numbers = time.monotonic(), []
    for frame in read_camera(str(path)):
        numbers.append(frame.number)
        time.sleep(0.15)
    assert 0.8 < time.monotonic() - begin < 2.5
    assert 4 <= len(numbers) <= 9


def test_a_camera_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="camera 97 is not there, or another program uses it"):
        next(read_camera("97"))
    with pytest.raises(UserError, match="expected a number as camera:1, or the path of a video"):
        next(read_camera(str(tmp_path / "no.mp4")))


def test_a_written_video_can_be_read_again(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "new folder" / "out.mp4")
    for number, pixels in enumerate(numbered(6, 49, 65)):  # odd sides
        writer.write(pixels, [0.0, 0.2, 0.4, 0.4, 1.0, 1.1][number])
    writer.write(numbered(1, 90, 130)[0], 1.2)  # another size
    writer.close()
    found = list(read_video(tmp_path / "new folder" / "out.mp4", ALL))
    np.testing.assert_allclose([frame.time_s for frame in found], [0, 0.2, 0.4, 0.4, 1.0, 1.1, 1.2], atol=1e-3)
    assert {frame.pixels.shape for frame in found} == {(48, 64, 3)}
    assert np.abs(found[5].pixels.astype(int) - numbered(6, 49, 65)[5][:48, :64]).mean() < 5


def test_a_video_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "full.mp4").symlink_to("/dev/full")
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)

    def write() -> None:
        writer = VideoWriter(tmp_path / "full.mp4")
        for _ in range(200):
            writer.write(noise, 0.0)
        writer.close()

    with pytest.raises(UserError, match=r"full\.mp4 could not be written: No space left"):
        write()


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x.mp4", tmp_path / "file" / "folder" / "x.mp4"):
        with pytest.raises(UserError, match=r"x\.mp4 could not be written: .* is not a folder"):
            VideoWriter(path)


class Camera:
    """In place of OpenCV's: every second read fails, and after six frames all do."""

    def __init__(self, number: int) -> None:
        self.reads = 0

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.reads += 1
        good = self.reads % 2 == 0 and self.reads <= 12
        return good, np.full((4, 4, 3), 7, np.uint8) if good else None

    def release(self) -> None:
        pass


def test_a_camera_that_is_unplugged_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    monkeypatch.setattr(video, "FAILED_READ_S", 0.02)
    frames, numbers = read_camera("0"), []
    with pytest.raises(UserError, match="camera 0 gives no more frames; check the cable"):
        numbers.extend(frame.number for frame in frames)
    frames = read_camera("0")
    assert next(frames).number <= 5  # after a read that failed
