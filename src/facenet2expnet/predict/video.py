"""Read and write videos with PyAV, and read cameras with OpenCV."""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from facenet2expnet.data.pictures import read_animation
from facenet2expnet.errors import UserError

HELP = "pip install 'facenet2expnet[video]'"
TIME_BASE = Fraction(1, 90_000)
"""Of written videos; fine enough for every frame rate, also a variable one."""

ENCODER = {"crf": "20", "preset": "veryfast", "bf": "0"}
"""Quality of written videos (18 is hardly visible, 23 the default), speed, and no B-frames: times then begin at 0."""

NO_FRAME_S = 10.0
"""A camera that gives no frame for so long counts as lost."""

FAILED_READS, FAILED_READ_S = 10, 0.05
"""A camera whose reads fail so often, with this pause between, counts as unplugged."""

log = logging.getLogger(__name__)


class TimedFrame(NamedTuple):
    """A frame: its number from 0, its time in seconds from the first frame, and (H, W, 3) uint8 RGB pixels."""

    number: int
    time_s: float
    pixels: np.ndarray


class Every:
    """Chooses frames: all of them, one each so many seconds, or one of so many frames.

    Args:
        text: None for all; "0.2s" or "0.2" for seconds, "5f" or "5 frames" for frames.
    Raises:
        UserError: If it is none of these.
    """

    def __init__(self, text: str | float | None = None) -> None:
        match = re.fullmatch(r"\s*(\d*\.?\d+)\s*(s|sec|seconds|f|frames)?\s*", "0" if text is None else str(text))
        unit = (match[2] or "s")[0] if match else ""
        value = float(match[1]) if match else 0.0
        if not match or (text is not None and value <= 0) or (unit == "f" and value % 1):
            raise UserError(f"every is '{text}', expected a time as 0.2s, or a number of frames as 5f")
        self.seconds, self.frames = (value, 1) if unit == "s" else (0.0, int(value))

    def chooser(self) -> Callable[[int, float], bool]:
        """Return a function of number and time that says, frame after frame, whether to take it."""
        due_s = 0.0

        def choose(number: int, time_s: float) -> bool:
            nonlocal due_s
            if not self.seconds:
                return number % self.frames == 0
            if time_s + 1e-6 < due_s:
                return False
            due_s = (np.floor((time_s + 1e-6) / self.seconds) + 1) * self.seconds
            return True

        return choose


def require_av() -> ModuleType:
    """Import PyAV, or raise UserError with the command that installs it."""
    try:
        import av
    except ImportError as error:
        raise UserError(f"to read or write videos, the package PyAV is needed; {HELP}") from error
    av.logging.set_level(av.logging.PANIC)  # a damaged file is reported once, by us
    return av


def read_video(path: Path, every: Every) -> Iterator[TimedFrame]:
    """Yield the chosen frames of a video, upright; the frames between are decoded, but not converted.

    Times are those of the file, so that a variable frame rate is kept. Damaged parts are left out, and a file that was
    cut short ends early; both are logged.

    Raises:
        UserError: If it is no video, or has no frames.
    """
    av = require_av()
    number, damaged, choose = 0, 0, every.chooser()
    begin_s: float | None = None
    last_s = 0.0
    with _opened(path) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                frames = [] if packet is None else packet.decode()
            except (av.error.FFmpegError, ValueError):
                damaged += 1
                if damaged > 1000 + number:  # nothing but damage
                    break
                continue
            if packet is None:
                break
            for frame in frames:
                time_s = number / rate if frame.time is None else float(frame.time)
                begin_s = time_s if begin_s is None else begin_s
                last_s = max(last_s, time_s - begin_s)
                if choose(number, last_s):
                    turns = round(frame.rotation / 90) % 4
                    pixels = np.rot90(frame.to_ndarray(format="rgb24"), turns)
                    yield TimedFrame(number, last_s, np.ascontiguousarray(pixels))
                number += 1
    if not number:
        raise UserError("is a video without frames that can be read")
    expected = stream.frames
    if damaged or (expected and number < 0.98 * expected):
        of = f" of {expected}" if expected else ""
        log.warning("%s: damaged or cut short; %d%s frames were read.", path, number, of)


def count_frames(path: Path, every: Every) -> int:
    """Estimate from its header how many frames will be chosen from a video; 0 if that is not known."""
    try:
        with _opened(path) as container:
            stream = container.streams.video[0]
            length_s = float(container.duration or 0) / 1e6
            frames = stream.frames or int(length_s * float(stream.average_rate or 0))
    except UserError:
        return 0
    return math.ceil(length_s / every.seconds - 1e-6) if every.seconds else -(-frames // every.frames)


def read_animated_picture(path: Path, every: Every) -> Iterator[TimedFrame]:
    """Yield the chosen frames of an animated GIF, WebP or PNG."""
    choose = every.chooser()
    for number, (time_s, pixels) in enumerate(read_animation(path)):
        if choose(number, time_s):
            yield TimedFrame(number, time_s, pixels)


def read_ahead(frames: Iterator[TimedFrame], ahead: int = 4) -> Iterator[TimedFrame]:
    """Yield frames that a thread of its own reads, a few ahead, so that reading and the rest overlap."""
    waiting: queue.Queue[TimedFrame | Exception | None] = queue.Queue(ahead)
    ended = threading.Event()

    def put(item: TimedFrame | Exception | None) -> None:
        while not ended.is_set():
            with contextlib.suppress(queue.Full):
                return waiting.put(item, timeout=0.1)

    def read() -> None:
        try:
            for frame in frames:
                put(frame)
                if ended.is_set():
                    return
            put(None)
        except Exception as error:  # raised again in the thread that takes the frames
            put(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        ended.set()
        thread.join()


class LatestFrame:
    """Reads frames in a thread of its own and hands out the newest: a slow reader loses frames, and never lags.

    Args:
        frames: called for the next frame (H, W, 3) uint8 RGB; None at the end.
    """

    def __init__(self, next_frame: Callable[[], np.ndarray | None]) -> None:
        self._next_frame = next_frame
        self._changed = threading.Condition()
        self._newest: TimedFrame | None = None
        self._ended = False
        self._begin_s = time.monotonic()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        number = 0
        try:
            while not self._ended and (pixels := self._next_frame()) is not None:
                with self._changed:
                    self._newest = TimedFrame(number, time.monotonic() - self._begin_s, pixels)
                    self._changed.notify()
                number += 1
        except Exception as error:  # raised in the reader's thread
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify()

    def __iter__(self) -> Iterator[TimedFrame]:
        """Yield the newest frame at each step, and no frame twice."""
        try:
            while True:
                with self._changed:
                    ready = self._changed.wait_for(lambda: self._newest or self._ended, timeout=NO_FRAME_S)
                    frame, self._newest = self._newest, None
                if self._error and frame is None:
                    raise self._error
                if not ready:
                    raise UserError(f"gave no frame for {NO_FRAME_S:.0f} s; check the cable")
                if frame is None:
                    return
                yield frame
        finally:
            self._ended = True
            self._thread.join(timeout=2)


def read_camera(which: str) -> Iterator[TimedFrame]:
    """Yield the newest frame of a camera at each step; frame numbers count the dropped frames too.

    Args:
        which: the camera's number, or a video that plays in its own time as if it came from a camera.
    Raises:
        UserError: If there is no such camera, or it is in use.
    """
    import cv2

    if not which.isdecimal():
        if not Path(which).is_file():
            raise UserError("expected a number as camera:1, or the path of a video")
        yield from LatestFrame(_played(Path(which)))
        return
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(int(which))
    cv2.utils.logging.setLogLevel(level)
    if not capture.isOpened():
        raise UserError(f"camera {which} is not there, or another program uses it; camera:1 is the second camera")

    def next_frame() -> np.ndarray:
        for _ in range(FAILED_READS):
            read, pixels = capture.read()
            if read:
                break
            time.sleep(FAILED_READ_S)
        else:
            raise UserError(f"camera {which} gives no more frames; check the cable")
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)

    try:
        yield from LatestFrame(next_frame)
    finally:
        capture.release()


def _played(path: Path) -> Callable[[], np.ndarray | None]:
    """A video's next frame, not before its time has come."""
    frames, begin_s = read_video(path, Every()), time.monotonic()

    def next_frame() -> np.ndarray | None:
        frame = next(frames, None)
        if frame is None:
            return None
        time.sleep(max(0.0, begin_s + frame.time_s - time.monotonic()))
        return frame.pixels

    return next_frame


class VideoWriter:
    """Writes an H.264 video, frame by frame, with the times that the frames have; to be closed.

    A frame of another size than the first is resized. An odd last row or column is left out, as H.264 wants it.

    Raises:
        UserError: If the file can't be written.
    """

    def __init__(self, path: Path) -> None:
        av = require_av()
        self._av, self._path, self._last = av, path, -1
        self._stream: Any = None
        with _writing(path, av):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(path), "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov"})

    def write(self, pixels: np.ndarray, time_s: float) -> None:
        """Write (H, W, 3) uint8 RGB pixels at a time in seconds, which never goes back."""
        import cv2

        with _writing(self._path, self._av):
            if self._stream is None:
                stream = self._container.add_stream("libx264", rate=30, options=ENCODER)
                stream.width, stream.height = pixels.shape[1] // 2 * 2, pixels.shape[0] // 2 * 2
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = TIME_BASE
                self._stream = stream
            size = (self._stream.width, self._stream.height)
            if (pixels.shape[1] // 2 * 2, pixels.shape[0] // 2 * 2) == size:
                pixels = pixels[: size[1], : size[0]]
            else:
                pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            self._last = max(self._last + 1, round(time_s / TIME_BASE))
            frame.pts, frame.time_base = self._last, TIME_BASE
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what is left, and close the file."""
        with _writing(self._path, self._av):
            if self._stream is not None:
                self._container.mux(self._stream.encode())
            self._container.close()


@contextmanager
def _writing(path: Path, av: ModuleType) -> Iterator[None]:
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        file_on_the_way = isinstance(error, FileExistsError | NotADirectoryError)
        reason = f"{path.parent} is not a folder" if file_on_the_way else error.strerror or error
        raise UserError(f"{path} could not be written: {reason}; free some space or give another name") from None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a video for reading; its first video stream is there."""
    av = require_av()
    try:
        if path.stat().st_size == 0:
            raise UserError("is empty (zero bytes)")
        container = av.open(str(path))
    except PermissionError:
        raise UserError("can't be opened: no read permission") from None
    except FileNotFoundError:
        raise UserError("was not found") from None
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(f"is not a video that can be read, or is cut short: {error.strerror or error}") from None
    with container:
        if not container.streams.video:
            raise UserError("has sound but no pictures")
        yield container
