from pathlib import Path

import numpy as np
from PIL import Image

from facenet2expnet.faces.contact_sheet import write_missing_sheet


def test_pictures_have_a_tile_with_a_caption(tmp_path: Path) -> None:
    wide = np.zeros((10, 20, 3), np.uint8)
    wide[..., 0] = 255
    Image.fromarray(wide).save(tmp_path / "a name that is much too long for its tile.png")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    paths = [*tmp_path.iterdir()] * 3
    write_missing_sheet(sorted(paths), tmp_path / "sheet.png", limit=4)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert pixels.shape == (160, 4 * 128, 3)
    assert (pixels[:18] < 128).any()  # the title
    assert pixels[82, 64].tolist() == [255, 0, 0]
    assert pixels[25, 64].tolist() == [255, 255, 255]  # above a picture that is wider than high
    assert (pixels[146:, :128] < 128).any()  # its caption
    assert pixels[82, 3 * 128 + 64].tolist() == [127, 127, 127]  # a picture that can't be read
