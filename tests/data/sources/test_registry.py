"""Datasets by name: names, help pages, and sources of other packages."""

from __future__ import annotations

import dataclasses
import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pandas as pd
import pytest

from facenet2expnet.data import sources
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.sources import Source
from facenet2expnet.errors import UserError

OWN = Source(
    "own",
    "Own",
    lambda path, scale=1: Manifest(pd.DataFrame({"image": ["a"], "label": [f"x{scale}"]}), path),
    options={"scale": "a number"},
    text="Terms: free",
)
BROKEN = 3


@pytest.mark.parametrize("name", list(sources.BUILT_IN))
def test_how_to_pages_are_complete(name: str) -> None:
    source = sources.get(name)
    page = source.how_to()
    for word in (
        "Where to get it:",
        "Terms:",
        "Expected",
        f"fn2en data prepare {name} PATH",
        "Classes:",
        "Protocol:",
    ):
        assert word in page
    assert source.name == name
    assert all(re.search(rf"{option} \(default \w+\)", page) for option in source.options)
    assert "(default None)" not in page


@pytest.mark.parametrize("name", ["CK+", "ck plus", "CKPLUS", "ckplus"])
def test_spelling_does_not_matter(name: str) -> None:
    assert sources.get(name).name == "ckplus"
    assert sources.get("Oulu_CASIA").name == sources.get("oulucasia").name == "oulu-casia"


def test_unknown_names_and_options(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset 'fer2012' is not one of ckplus.*did you mean 'fer2013'"):
        sources.get("fer2012")
    with pytest.raises(
        UserError, match="ckplus has no option 'clases'; it has classes, frames; did you mean 'classes'"
    ):
        sources.read("ckplus", tmp_path, clases=8)
    with pytest.raises(UserError, match="jaffe has no option 'x'; it has none"):
        sources.read("jaffe", tmp_path, x=8)


def test_other_packages_add_sources_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        EntryPoint("own", f"{__name__}:OWN", sources.GROUP),
        EntryPoint("broken", "no_such_module:X", sources.GROUP),
        EntryPoint("wrong", f"{__name__}:BROKEN", sources.GROUP),
        EntryPoint("ckplus", f"{__name__}:OWN", sources.GROUP),
    ]
    monkeypatch.setattr(sources, "entry_points", lambda group: entries if group == sources.GROUP else [])
    assert sources.names()[-3:] == ["broken", "own", "wrong"]
    assert sources.read_into("own", tmp_path, tmp_path / "out", scale=2).classes == ("x2",)
    assert sources.get("ckplus").name == "ckplus"
    with pytest.raises(UserError, match="can't be loaded: No module named 'no_such_module'"):
        sources.get("broken")
    with pytest.raises(UserError, match=r"expected a facenet2expnet\.data\.sources\.Source, got int"):
        sources.get("wrong")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            PermissionError(13, "Permission denied", "labels.txt"),
            "a file of own can't be read: .*Permission denied: 'labels.txt'",
        ),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), "a file of own can't be read: .*bad"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, fault: Exception, message: str) -> None:
    def closed(path: Path) -> Manifest:
        raise fault

    with pytest.raises(UserError, match=message):
        dataclasses.replace(OWN, reader=closed).read(tmp_path)


def test_own_pictures(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    assert sources.read("folder", tmp_path).classes == ("a", "b")
    (tmp_path / "labels.csv").write_text("image,label\na/1.png,x\n")
    assert sources.read("folder", tmp_path / "labels.csv").classes == ("x",)
