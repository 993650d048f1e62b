"""The font that the report carries."""

from __future__ import annotations

import base64
import io
import re

from fontTools.ttLib import TTFont

from facenet2expnet.report.fonts import font_faces


def fonts(css: str) -> list[TTFont]:
    return [TTFont(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", css)]


def test_regular_and_bold_have_the_letters_of_the_text_and_no_others() -> None:
    css = font_faces("R² −5 %")
    assert re.findall(r"font-weight: (\d+)", css) == ["400", "700"]
    assert [font["OS/2"].usWeightClass for font in fonts(css)] == [400, 700]
    for font in fonts(css):
        assert set(map(chr, font.getBestCmap())) == set("R² −5 %")


def test_letters_that_the_font_lacks_are_left_to_the_browser() -> None:
    for font in fonts(font_faces("a喜")):
        assert set(map(chr, font.getBestCmap())) == {"a"}


def test_the_same_text_gives_the_same_font() -> None:
    assert font_faces("abc") == font_faces("cba")
