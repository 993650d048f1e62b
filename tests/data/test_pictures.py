"""Pictures of every kind, and files that are not pictures."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facenet2expnet.data import pictures
from facenet2expnet.data.pictures import (
    Skipped,
    decode_picture,
    eight_bit,
    read_picture,
    read_reduced,
    write_contact_sheet,
    write_skipped,
)
from facenet2expnet.errors import UserError


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def solid(mode: str, colour: object, size: tuple[int, int] = (6, 4)) -> Image.Image:
    return Image.new(mode, size, colour)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "name", "rgb"),
    [
        (solid("RGB", (10, 20, 30)), "a.png", (10, 20, 30)),
        (solid("L", 77), "grey.png", (77, 77, 77)),
        (solid("1", 1), "bits.png", (255, 255, 255)),
        (solid("RGB", (200, 0, 0)).convert("P"), "palette.png", (204, 0, 0)),
        (solid("CMYK", (0, 255, 255, 0)), "cmyk.tif", (255, 0, 0)),
        (solid("CMYK", (0, 255, 255, 0)), "cmyk.jpg", (255, 0, 0)),
        (solid("I;16", 32896), "deep.png", (128, 128, 128)),
        (solid("I;16", 65535), "deep.tif", (255, 255, 255)),
        (solid("I", 257 * 9), "int.tif", (9, 9, 9)),
        (solid("F", 0.5), "unit.tif", (128, 128, 128)),
        (solid("F", 200.0), "float.tif", (200, 200, 200)),
        (solid("RGBA", (9, 9, 9, 255)), "solid.png", (9, 9, 9)),
        (solid("RGBA", (9, 9, 9, 0)), "clear.png", (127, 127, 127)),
        (solid("RGBA", (255, 255, 255, 128)), "half.png", (191, 191, 191)),
        (solid("LA", (255, 0)), "clear-grey.png", (127, 127, 127)),
    ],
)
def test_every_kind_becomes_rgb(tmp_path: Path, image: Image.Image, name: str, rgb: tuple[int, ...]) -> None:
    picture = read_picture(save(image, tmp_path / name))
    assert picture.shape == (4, 6, 3)
    assert picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - rgb).max() <= 2


def test_16_bit_rgb(tmp_path: Path) -> None:
    import cv2

    bgr = np.full((4, 6, 3), (0, 257 * 60, 257 * 200), np.uint16)
    for name in ("a.png", "a.tif"):
        cv2.imwrite(str(tmp_path / name), bgr)
        assert (read_picture(tmp_path / name) == (200, 60, 0)).all()


def test_deep_pictures_that_hold_0_to_255(tmp_path: Path) -> None:
    """Many programs store 8-bit values in 16 or 32 bits; they must not become black."""
    import cv2

    grey = np.full((64, 64), 200, np.uint16)
    colour = np.full((64, 64, 3), (10, 100, 200), np.uint16)  # blue, green, red
    for name in ("grey.png", "grey.tif", "grey.jp2"):
        cv2.imwrite(str(tmp_path / name), grey)
        assert (read_picture(tmp_path / name) == 200).all(), name
    for name in ("colour.png", "colour.tif", "colour.jp2"):
        cv2.imwrite(str(tmp_path / name), colour)
        assert (read_picture(tmp_path / name) == (200, 100, 10)).all(), name
    for opaque in (255, 65535):
        cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([colour, np.full((64, 64), opaque, np.uint16)]))
        assert (read_picture(tmp_path / "alpha.png") == (200, 100, 10)).all(), opaque
    (tmp_path / "grey.pgm").write_bytes(b"P5 2 2 65535\n" + np.full(4, 200, ">u2").tobytes())
    (tmp_path / "colour.ppm").write_bytes(b"P6 2 2 65535\n" + np.full(12, 200, ">u2").tobytes())
    save(solid("I", 200), tmp_path / "int.tif")
    for name in ("grey.pgm", "colour.ppm", "int.tif"):
        assert (read_picture(tmp_path / name) == 200).all(), name


def test_black_stays_black_and_a_little_above_255_is_dark(tmp_path: Path) -> None:
    import cv2

    for value, seen in ((0, 0), (300, 1)):
        cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 8, 3), value, np.uint16))
        assert (read_picture(tmp_path / "a.png") == seen).all()


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 128.0, 255.0], [0, 128, 255]),
        ([0.0, 32768.0, 65535.0], [0, 128, 255]),
        ([0.0, 5e5, 1e6], [0, 128, 255]),
        ([-3.0, np.nan, np.inf], [0, 0, 255]),
    ],
)
def test_the_values_decide_what_white_is(values: list[float], seen: list[int]) -> None:
    assert list(eight_bit(np.array([values]))[0]) == seen
    if np.isfinite(values).all() and max(values) > 1:
        assert list(eight_bit(np.array([values]).astype(np.int32))[0]) == seen


def test_the_endings_of_phones_and_the_web_are_read(tmp_path: Path) -> None:
    for name in ("a.jfif", "a.jpe", "a.jp2", "a.avif", "a.tga", "a.pnm", "a.mpo"):
        path = save(solid("RGB", (200, 100, 10), (64, 64)), tmp_path / name)
        assert path.suffix in pictures.picture_endings()
        assert np.abs(read_picture(path).astype(int) - (200, 100, 10)).max() <= 4, name


def test_heic(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(solid("RGB", (200, 100, 10), (64, 64))).save(tmp_path / "a.heic")
    assert np.abs(read_picture(tmp_path / "a.heic").astype(int) - (200, 100, 10)).max() <= 4


def test_heic_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "a.HEIC").write_bytes(b"x")
    with pytest.raises(
        UserError, match=r"is a HEIC picture; to read it, pip install 'facenet2expnet\[heic\]', or save"
    ):
        read_picture(tmp_path / "a.HEIC")
    (tmp_path / "renamed.jpg").write_bytes(b"\0\0\0\x18ftypheic....")
    with pytest.raises(UserError, match="is a HEIC picture"):
        read_picture(tmp_path / "renamed.jpg")


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = solid("P", 0)
    image.putpalette([250, 0, 0, 0, 250, 0])
    path = save(image, tmp_path / "a.png", transparency=0)
    assert (read_picture(path) == 127).all()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read_picture(save(image, tmp_path / "a.png", exif=exif))
    assert np.array_equal(turned[..., 0], np.rot90(np.asarray(image), -1))


def test_first_frame_of_several(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    solid("RGB", (250, 0, 0)).save(path, save_all=True, append_images=[solid("RGB", (0, 250, 0))])
    assert read_picture(path)[0, 0, 0] > 200


def broken(tmp_path: Path) -> dict[str, Path]:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    files = {
        "zero": b"",
        "text": b"not a picture at all",
    }
    for name, content in files.items():
        (tmp_path / f"{name}.png").write_bytes(content)
    for ending in ("png", "jpg", "bmp", "tif"):
        whole = save(Image.fromarray(noise), tmp_path / f"cut.{ending}").read_bytes()
        (tmp_path / f"cut.{ending}").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "folder.png").mkdir()
    named = {path.name: path for path in tmp_path.iterdir()}
    return named | {"missing.png": tmp_path / "missing.png"}


REASONS = {
    "zero.png": "zero bytes",
    "text.png": r"not a picture that can be read \(\.png",
    "cut.png": "damaged or truncated",
    "cut.jpg": "damaged or truncated",
    "cut.bmp": "damaged or truncated",
    "cut.tif": "damaged or truncated",
    "folder.png": "is a folder",
    "missing.png": "was not found",
}


@pytest.mark.parametrize("name", REASONS)
def test_unreadable_file_gives_the_reason(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=REASONS[name]):
        read_picture(broken(tmp_path)[name])


@pytest.mark.parametrize("limit", [23, 5])
def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    path = save(solid("L", 1), tmp_path / "a.png")
    monkeypatch.setattr(pictures, "MAX_PIXELS", limit)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 if limit > 12 else limit)
    with pytest.raises(UserError, match="is too large"):
        read_picture(path)


@pytest.mark.parametrize("pillows_limit", [100_000, 10_000])  # the second makes Pillow refuse to open it
def test_huge_pictures_are_read_reduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pillows_limit: int) -> None:
    pixels = np.zeros((200, 120, 3), np.uint8)
    pixels[:100] = (200, 100, 10)
    for name, options in (("a.jpg", {}), ("a.jp2", {}), ("a.png", {}), ("progressive.jpg", {"progressive": True})):
        save(Image.fromarray(pixels), tmp_path / name, **options)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 5_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_limit)
    for name in ("a.jpg", "a.jp2"):
        picture, reduced = read_reduced(tmp_path / name)
        assert (picture.shape, reduced) == ((50, 30, 3), 4)
        assert np.abs(picture[5, 5].astype(int) - (200, 100, 10)).max() <= 2
        assert picture[-5].max() <= 2
        with pytest.raises(UserError, match=r"120 x 200 pixels, the limit is 0\.02 megapixels; save it smaller"):
            read_picture(tmp_path / name, max_megapixels=0.02)
        with pytest.raises(UserError, match="120 x 200 pixels, the limit is 5,000 pixels"):
            decode_picture(io.BytesIO((tmp_path / name).read_bytes()))
    for name in ("a.png", "progressive.jpg"):
        with pytest.raises(UserError, match="is too large"):
            read_picture(tmp_path / name)


@pytest.mark.parametrize(("times", "shape"), [(1, (1100, 2200)), (2, (550, 1100)), (4, (275, 550)), (8, (275, 550))])
@pytest.mark.parametrize(("mode", "options"), [("RGB", {}), ("L", {}), ("RGB", {"progressive": True})])
def test_a_jpeg_is_read_reduced_if_asked_as_long_as_256_pixels_a_side_are_left(
    tmp_path: Path, mode: str, options: dict[str, object], times: int, shape: tuple[int, int]
) -> None:
    pixels = np.zeros((2200, 1100), np.uint8)
    pixels[:1100] = 200  # the right half when turned
    image = Image.fromarray(pixels).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture, reduced = read_reduced(save(image, tmp_path / "a.jpg", exif=exif, **options), jpeg_reduce=times)
    assert (picture.shape, reduced) == ((*shape, 3), min(times, 4))
    assert picture[:, : shape[1] // 2 - 9].max() == 0
    assert np.abs(picture[:, shape[1] // 2 + 9 :].astype(int) - 200).max() <= 2
    with (tmp_path / "a.jpg").open("rb") as file:
        assert read_reduced(file, jpeg_reduce=times)[0].shape == picture.shape


def test_other_formats_are_not_read_reduced_for_speed(tmp_path: Path) -> None:
    for name in ("a.png", "a.jp2", "a.webp"):
        picture, reduced = read_reduced(save(solid("RGB", 0, (600, 600)), tmp_path / name), jpeg_reduce=2)
        assert (picture.shape, reduced) == ((600, 600, 3), 1)
    second = solid("RGB", 0, (600, 600))
    save(solid("RGB", 9, (600, 600)), tmp_path / "a.mpo", save_all=True, append_images=[second])  # JPEGs in a file
    picture, reduced = read_reduced(tmp_path / "a.mpo", jpeg_reduce=2)
    assert picture.shape == (600 // reduced, 600 // reduced, 3)
    assert abs(int(picture[0, 0, 0]) - 9) <= 1


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_no_permission(tmp_path: Path) -> None:
    path = save(solid("L", 1), tmp_path / "a.png")
    path.chmod(0)
    with pytest.raises(UserError, match="no read permission"):
        read_picture(path)


def test_write_skipped(tmp_path: Path) -> None:
    write_skipped([Skipped("a, b.png", "was not found")], tmp_path / "skipped.csv")
    assert (tmp_path / "skipped.csv").read_text() == 'image,reason\n"a, b.png",was not found\n'


def test_contact_sheet_has_a_tile_with_a_caption_for_each_picture(tmp_path: Path) -> None:
    save(solid("RGB", (255, 0, 0), (20, 10)), tmp_path / "a name that is much too long for its tile.png")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    paths = sorted([*tmp_path.iterdir()] * 3)
    write_contact_sheet(paths, "title", tmp_path / "sheet.png", limit=4)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert pixels.shape == (14 + 128 + 14, 6 * 128, 3)
    assert (pixels[:14] < 128).any()  # the title
    assert pixels[82, 64].tolist() == [255, 0, 0]
    assert pixels[25, 64].tolist() == [255, 255, 255]  # above a picture that is wider than high
    assert (pixels[142:, :128] < 128).any()  # its caption
    assert pixels[82, 3 * 128 + 64].tolist() == [128, 128, 128]  # a picture that can't be read
    assert (pixels[14:, 4 * 128 :] == 255).all()  # beyond the limit


def test_a_large_picture_gives_our_message_only(tmp_path: Path) -> None:
    """Not Pillow's warning, too, which names a decompression bomb."""
    solid("1", 0, (10_000, 10_000)).save(tmp_path / "large.png")
    code = (
        "import sys; from pathlib import Path; from facenet2expnet.data import pictures\n"
        "pictures.count_frames(Path(sys.argv[1]))\n"
        "try: pictures.read_picture(Path(sys.argv[1]))\n"
        "except pictures.UserError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code, tmp_path / "large.png"], capture_output=True, text=True)
    expected = (
        f"is too large: 10000 x 10000 pixels, the limit is {pictures.MAX_PIXELS:,} pixels for PNG; save it smaller, "
    )
    assert ran.stdout.startswith(expected)
    assert ran.stderr == ""


def test_a_large_animation_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 20)
    solid("P", 0).save(tmp_path / "a.gif", save_all=True, append_images=[solid("P", 1)])
    with pytest.raises(UserError, match=r"^is too large: 6 x 4 pixels, the limit is 20 pixels"):
        next(iter(pictures.read_animation(tmp_path / "a.gif")))


def test_a_tall_picture_is_converted_strip_by_strip(tmp_path: Path) -> None:
    height = 2 * pictures.STRIP_ROWS + 3
    pixels = np.zeros((height, 2, 4), np.uint8)
    pixels[..., 0], pixels[..., 3] = np.arange(height)[:, None] % 256, [255, 0]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png")
    assert found.shape == (height, 2, 3)
    assert (found[:, 0, 0] == np.arange(height) % 256).all()
    assert (found[:, 1] == pictures.BACKGROUND).all()
    deep = np.full((height, 2), 1000, np.int32)
    deep[-1] = 65535
    assert pictures.eight_bit(deep)[[0, -1], 0].tolist() == [4, 255]


def test_a_picture_that_does_not_fit_in_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(image: Image.Image) -> np.ndarray:
        raise MemoryError

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.setattr(pictures, "_to_rgb", no_room)
    with pytest.raises(UserError, match="does not fit in the free memory; save it smaller"):
        read_picture(tmp_path / "a.png")
