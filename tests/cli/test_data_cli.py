"""fn2en data and sample: from a dataset as distributed to faces, splits and checks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import fn2en

import tiny


@pytest.fixture
def ckplus(tmp_path: Path) -> Path:
    """A small CK+: four subjects, two sequences each."""
    root, rng = tmp_path / "CK+ Ümläut", np.random.default_rng(0)
    for subject in range(4):
        for sequence, code in ((1, 1), (2, 5)):
            name = f"S{subject:03}_{sequence:03}"
            folder = root / "cohn-kanade-images" / f"S{subject:03}" / f"{sequence:03}"
            folder.mkdir(parents=True)
            for frame in range(1, 7):
                pixels = rng.integers(0, 255, (50, 60), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{name}_{frame:08}.png")
            emotion = root / "Emotion" / f"S{subject:03}" / f"{sequence:03}"
            emotion.mkdir(parents=True)
            (emotion / f"{name}_00000006_emotion.txt").write_text(f"   {code}.0000000e+00\n")
    return root


def test_ckplus_from_download_to_splits(
    ckplus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faces, split = tmp_path / "faces", tmp_path / "folds.json"
    assert fn2en("data", "prepare", "ckplus", ckplus, "--out", faces, "--size", 64, monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "32 faces in" in printed
    assert "CK+ happiness is printed as 147 and must be 207" in printed
    assert fn2en("data", "summary", faces, monkeypatch=monkeypatch) == 0
    assert "paper, corrected" in capsys.readouterr().out
    assert fn2en("data", "split", faces, "--out", split, "--folds", 2, monkeypatch=monkeypatch) == 0
    assert "none of 4 subjects is in two parts of a fold" in capsys.readouterr().out
    assert [fold["name"] for fold in json.loads(split.read_text())["folds"]] == ["fold-1", "fold-2"]
    command = ["data", "audit", faces, "--protocol", split, "--no-same-subject"]
    assert fn2en(*command, monkeypatch=monkeypatch) == 0
    assert "Nothing was found in 32 pictures" in capsys.readouterr().out


def test_messages_for_wrong_folders_and_options(
    ckplus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["ckplus", ckplus / "cohn-kanade-images"], "give"),
        (["ckplus", ckplus, "--option", "clases=6"], "did you mean 'classes'"),
        (["ckplus", ckplus, "--option", "classes"], "expected NAME=VALUE"),
        (["ck", ckplus], "is not one of"),
        (["ckplus", ckplus, "--detector", "eyes"], "detector is 'eyes'"),
    ):
        out = tmp_path / "faces"
        assert fn2en("data", "prepare", *arguments, "--out", out, monkeypatch=monkeypatch) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()


def test_audit_finds_a_planted_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = tiny.write_faces(tmp_path / "faces", each=4)
    (faces / "anger" / "copy.png").write_bytes((faces / "happiness" / "00.png").read_bytes())
    command = ["data", "audit", faces, "--protocol", "stratified", "--folds", 4, "--out", tmp_path / "found"]
    assert fn2en(*command, monkeypatch=monkeypatch) == 0
    assert "2 identical pictures have different labels." in capsys.readouterr().out
    assert (tmp_path / "found" / "identical.csv").is_file()


def test_how_to_and_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert fn2en("data", "list", monkeypatch=monkeypatch) == 0
    names = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert {"ckplus", "oulu-casia", "tfd", "sfew", "fer2013", "rafdb", "affectnet", "jaffe", "folder"} <= set(names)
    for name in names:
        assert fn2en("data", "how-to", name, monkeypatch=monkeypatch) == 0
        assert "Where to get it:" in capsys.readouterr().out
