from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facenet2expnet.data.folders import from_folder
from facenet2expnet.data.manifest import Manifest


@pytest.fixture
def pictures(tmp_path: Path) -> Manifest:
    """Ten readable pictures of two classes, all different, and one file that is no picture."""
    rng = np.random.default_rng(0)
    for name in ("anger", "joie à deux"):
        folder = tmp_path / "my pictures" / name
        folder.mkdir(parents=True)
        for number in range(5):
            pixels = rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "my pictures" / "anger" / "2b.jpg").write_bytes(b"not a picture")
    return from_folder(tmp_path / "my pictures")
