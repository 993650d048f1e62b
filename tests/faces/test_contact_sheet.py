from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facenet2expnet.faces.contact_sheet import contact_sheet, with_marks, write_missing_sheet


def test_tiles_lie_in_rows_and_keep_their_proportions() -> None:
    red = np.zeros((10, 20, 3), np.uint8)
    red[..., 0] = 255
    sheet = contact_sheet([red] * 3, columns=2, tile_px=40)
    assert sheet.shape == (80, 80, 3)
    assert sheet[20, 20].tolist() == [255, 0, 0]
    assert sheet[5, 20].tolist() == [255, 255, 255]  # above a picture that is wider than high
    assert sheet[60, 60].tolist() == [255, 255, 255]  # the place of a fourth


def test_captions_and_title_are_drawn() -> None:
    white = np.full((8, 8, 3), 255, np.uint8)
    plain = contact_sheet([white], tile_px=64)
    named = contact_sheet([white], ["a name that is much too long for its tile.png"], tile_px=64, title="two")
    assert plain.min() == 255
    assert named.shape[0] > plain.shape[0]
    assert (named[:14] < 128).any()
    assert (named[-14:] < 128).any()


def test_it_wants_pictures_and_a_caption_each() -> None:
    with pytest.raises(ValueError, match="one picture at least"):
        contact_sheet([])
    with pytest.raises(ValueError, match="expected 1 captions"):
        contact_sheet([np.zeros((2, 2, 3), np.uint8)], ["a", "b"])


def test_marks_leave_the_picture_as_it_was() -> None:
    picture = np.zeros((50, 50, 3), np.uint8)
    marked = with_marks(picture, np.array([5.0, 5, 40, 40]), np.array([[20.0, 20.0]]))
    assert picture.max() == 0
    assert marked[5, 20, 1] > 200
    assert marked[20, 20, 0] > 200


def test_a_picture_that_cannot_be_read_has_a_grey_tile(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"nothing")
    write_missing_sheet([tmp_path / "bad.png", tmp_path / "bad.png"], tmp_path / "sheet.png", most=1)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert np.asarray(sheet)[50, 50].tolist() == [127, 127, 127]
