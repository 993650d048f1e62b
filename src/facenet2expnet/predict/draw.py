"""Draw boxes, labels and tracks on pictures and videos."""

from __future__ import annotations

import functools
import importlib.util
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facenet2expnet.data.pictures import picture_endings
from facenet2expnet.errors import UserError
from facenet2expnet.files import package_file, write_atomic
from facenet2expnet.predict.sources import VIDEO_ENDINGS, Given, Sources, check_output, check_sources, identity
from facenet2expnet.predict.video import VideoWriter, require_av

if TYPE_CHECKING:
    from facenet2expnet.predict.results import FaceResult, FrameResult

COLOURS = ("#ffffff", "#56b4e9", "#e69f00", "#2fd6a3", "#f0e442", "#ff8fc7", "#ff7a45", "#b39dff")
"""White without a track; then one colour a track, in turn. All are light: they stand on a dark edge."""

EDGE = "#101010"
"""Around lines and behind text, so that both show on light and on dark skin and background."""

JPEG_QUALITY = 92


def draw_faces(pixels: np.ndarray, faces: Sequence[FaceResult], labels: Sequence[str]) -> np.ndarray:
    """Draw each face's box, label with its probability, and track.

    Lines and letters grow with the picture and the face, and are never smaller than what can be read. A smoothed
    probability is shown instead of the raw one, where there is one.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        faces: what to draw.
        labels: one a face.
    Returns:
        A new (H, W, 3) uint8 RGB picture.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    canvas = ImageDraw.Draw(image, "RGBA")
    line = max(1, round(min(image.size) / 220))
    boxes = [_within(face.box_xyxy_px, image.size) for face in faces]
    for face, box in zip(faces, boxes, strict=True):
        outer = [box[0] - line, box[1] - line, box[2] + line, box[3] + line]
        canvas.rectangle(outer, outline=EDGE, width=3 * line)
        canvas.rectangle(box, outline=_colour(face), width=line)
    placed: list[list[float]] = []
    for face, box, label in zip(faces, boxes, labels, strict=True):
        others = [other for other in boxes if other is not box]
        placed.append(_draw_label(canvas, image.size, face, box, _text(face, label), [*others, *placed]))
    return np.asarray(image)


def _draw_label(
    canvas: ImageDraw.ImageDraw,
    size_wh: tuple[int, int],
    face: FaceResult,
    box: list[float],
    text: str,
    taken: Sequence[list[float]],
) -> list[float]:
    """Draw a label where it covers least of the other boxes and labels; return its rectangle."""
    shorter, width = min(size_wh), size_wh[0]
    letters = int(np.clip(0.15 * (box[3] - box[1]), max(11, shorter / 60), max(12, shorter / 22)))
    font = _font(letters)
    while letters > 7 and font.getlength(text) + letters > width:
        letters -= 1
        font = _font(letters)
    pad, bar = max(2, letters // 4), max(2, letters // 4)
    label_w = font.getlength(text) + 2 * pad + bar
    label_h = sum(font.getmetrics()) + pad
    gap = max(2, shorter // 150)
    x = min(max(box[0], 0), max(0, width - label_w))
    right = min(max(box[2] - label_w, 0), max(0, width - label_w))
    ys = (box[1] - gap - label_h, box[3] + gap, box[1] + gap, box[3] - gap - label_h)
    places = [[left, y, left + label_w, y + label_h] for y in ys for left in (x, right)]
    places = [place for place in places if place[1] >= 0 and place[3] <= size_wh[1]] or [[x, 0, x + label_w, label_h]]
    left, top, end, bottom = place = min(places, key=lambda place: sum(_shared(place, other) for other in taken))
    canvas.rectangle([left, top, end, bottom], fill=(16, 16, 16, 215))
    canvas.rectangle([left, top, left + bar, bottom], fill=_colour(face))
    canvas.text((left + bar + pad, top + pad / 2), text, font=font, fill="#ffffff")
    return place


def _text(face: FaceResult, label: str) -> str:
    values = face.probabilities if face.smoothed is None else face.smoothed
    name = "".join(c if c.isprintable() else "?" for c in label)
    return f"{'' if face.track is None else f'#{face.track} '}{name} {values.max():.0%}"


def _colour(face: FaceResult) -> str:
    return COLOURS[0] if face.track is None else COLOURS[1 + (face.track - 1) % (len(COLOURS) - 1)]


def _within(box: np.ndarray, size_wh: tuple[int, int]) -> list[float]:
    """The part of a box that is in the picture, two pixels wide at least."""
    left, top = (float(np.clip(v, 0, side - 3)) for v, side in zip(box[:2], size_wh, strict=True))
    right, bottom = (float(np.clip(v, 0, side - 1)) for v, side in zip(box[2:], size_wh, strict=True))
    return [max(left, 0), max(top, 0), max(right, left + 2), max(bottom, top + 2)]


def _shared(a: Sequence[float], b: Sequence[float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


@functools.cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib; it has the letters of most European languages, Greek and Cyrillic.

    A small installation without matplotlib has the font of Pillow, for Latin letters.
    """
    try:
        path = package_file("matplotlib", "mpl-data/fonts/ttf/DejaVuSans-Bold.ttf", "")
    except UserError:
        return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size_px))
    return ImageFont.truetype(str(path), size_px)


class DrawingWriter:
    """Writes annotated pictures and videos to a folder, or one of them to a file; to be closed.

        with DrawingWriter(Path("drawn"), "holiday/") as drawings:
            for result in recognizer.stream("holiday/", smooth_s=0.5):
                drawings.write(result)

    Args:
        out: a folder, or a file that ends as a picture or in .mp4.
        sources: what is drawn, as for `Recognizer.stream`; none of these files is overwritten, and no drawing goes to a
            folder that is one of them.
    Raises:
        UserError: If a file can't be written, is one of the sources, or a second one would go to the same name; or if
            a source is a video, and PyAV is not installed.
    """

    def __init__(self, out: Path, sources: Given | Iterable[Given] | Sources = ()) -> None:
        self.out = out
        self.written: list[Path] = []
        self._is_file = out.suffix.lower() in (*picture_endings(), *VIDEO_ENDINGS) and not out.is_dir()
        if out.suffix.lower() in VIDEO_ENDINGS and out.suffix.lower() != ".mp4":
            raise UserError(f"{out}: expected a folder, a picture, or a video that ends in .mp4")
        self._video: VideoWriter | None = None
        self._source: str | None = None
        self._used: set[Path] = set()
        self._numbers: dict[Path, int] = {}
        self._originals: set[tuple[int, int]] = set()
        listed = check_sources(sources, allow_urls=True)
        check_output(out, listed)
        if importlib.util.find_spec("av") is None and any(source.moving for source in listed):
            require_av()
        for source in listed:
            if isinstance(source.value, Path) and (known := identity(source.value)):
                self._originals.add(known)

    def __enter__(self) -> DrawingWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, result: FrameResult) -> None:
        """Draw a result; one that was not read is left out."""
        if result.pixels is None:
            return
        if result.source != self._source or not result.moving:
            self.close()
            self._source = result.source
            path = self._path(result)
            self.written.append(path)
            if result.moving:
                self._video = VideoWriter(path)
        drawn = result.draw()
        if self._video is not None:
            self._video.write(drawn, result.time_s)
            return
        buffer = io.BytesIO()
        jpeg = self.written[-1].suffix.lower() in (".jpg", ".jpeg")
        options = {"format": "JPEG", "quality": JPEG_QUALITY} if jpeg else {"format": "PNG"}
        Image.fromarray(drawn).save(buffer, **options)
        write_atomic(self.written[-1], buffer.getvalue(), sync=False)

    def close(self) -> None:
        """Finish the video that is being written."""
        if self._video is not None:
            self._video.close()
            self._video = None

    def _path(self, result: FrameResult) -> Path:
        """A name that was not used yet."""
        if self._is_file:
            if self.written:
                raise UserError(f"{self.out} is one file, and there are several sources; give a folder")
            video = self.out.suffix.lower() == ".mp4"
            if video != result.moving:
                wanted = ".mp4 for a video" if result.moving else ".png or .jpg for a picture"
                raise UserError(f"{self.out}: expected {wanted}, or a folder")
            return self.out
        named = Path(result.source.replace(":", "-"))
        ending = named.suffix.lower() if named.suffix.lower() in (".jpg", ".jpeg") else ".png"
        ending = ".mp4" if result.moving else ending
        stem = named.stem or "picture"
        first = path = self.out / f"{stem}{ending}"
        if self._is_original(path):
            first = path = self.out / f"{stem}-drawn{ending}"
        number = self._numbers.get(first, 1)
        while path in self._used or self._is_original(path):
            number += 1
            path = first.with_stem(f"{first.stem}-{number}")
        self._numbers[first] = number
        self._used.add(path)
        return path

    def _is_original(self, path: Path) -> bool:
        return bool(self._originals) and identity(path) in self._originals
