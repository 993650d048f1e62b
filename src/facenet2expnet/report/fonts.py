"""The figures' font for a page that needs nothing but itself."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import matplotlib
from fontTools import subset

FAMILY = "DejaVu Sans"
_FILES = {400: "DejaVuSans.ttf", 700: "DejaVuSans-Bold.ttf"}


def font_faces(text: str) -> str:
    """CSS rules that embed `FAMILY`, regular and bold, cut down to the letters of a text.

    Its letters have the widths that matplotlib laid the figures out with. For a letter that the font lacks the browser
    takes a font of its own. DejaVu comes with matplotlib; its licence allows embedding.
    """
    rules = []
    for weight, name in _FILES.items():
        font = subset.load_font(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), _options())
        cutter = subset.Subsetter(_options())
        cutter.populate(text=text)
        cutter.subset(font)
        font.flavor = "woff"
        buffer = io.BytesIO()
        font.save(buffer)
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        rules.append(
            f'@font-face {{ font-family: "{FAMILY}"; font-weight: {weight}; '
            f'src: url("data:font/woff;base64,{data}") format("woff"); }}'
        )
    return "\n".join(rules)


def _options() -> subset.Options:
    """No hints, which screens of today pass over, and no date, so that the same text gives the same bytes."""
    options = subset.Options(hinting=False, recalc_timestamp=False)
    options.drop_tables += ["FFTM"]  # FontForge's own dates
    return options
