"""The screen: whatever it can't show, the work goes on."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from facenet2expnet.cli.console import Screen, screens
from facenet2expnet.cli.main import with_flags


def test_characters_that_a_terminal_does_not_have() -> None:
    raw = io.BytesIO()
    screen = Screen(io.TextIOWrapper(raw, encoding="cp1252", newline="\n"))
    print("é 表 \udcff", file=screen, flush=True)
    assert raw.getvalue() == b"\xe9 \\u8868 \\udcff\n"


def test_a_closed_pipe_drops_the_rest() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        screen = Screen(stream)
        for _ in range(10_000):
            print("a row of the table", file=screen)
        screen.flush()
        assert screen.lost is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_behind_the_screen_is_an_error_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    with Path("/dev/full").open("w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)

        def work() -> None:
            with screens():
                print("recipe", flush=True)
                done.append("the work")

        with pytest.raises(OSError, match=r"No space left on device: 'standard output'"):
            work()
    assert done == ["the work"]


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
def test_head_ends_a_command_without_a_word() -> None:
    command = f"{sys.executable} -m facenet2expnet.cli.main data how-to fer2013 | head -1; echo ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert ended.stdout.splitlines() == ["FER2013, with FER+ labels if its file is beside it  [fer2013]", "0"]
    assert ended.stderr == ""


@pytest.mark.parametrize(
    ("message", "arguments", "shown"),
    [
        ("min_face_px is 0, expected 1 to 10000", ["predict"], "--min-face is 0, expected 1 to 10000"),
        ("smooth_s is -1, expected more", ["predict"], "--smooth is -1, expected more"),
        ("faces is 'some', expected one of all", ["predict"], "--faces is 'some', expected one of all"),
        ("faces is big, expected aligned or original", ["data", "prepare"],
         "--option faces=big: expected aligned or original"),
        ("it has labels but no Image; pass faces=original", ["data", "prepare"],
         "it has labels but no Image; pass --option faces=original"),
        ("the class fear is not known", ["train"], "the class fear is not known"),
        ("nothing was found", ["train"], "nothing was found"),
    ],
)  # fmt: skip
def test_errors_name_the_option_of_the_command(message: str, arguments: list[str], shown: str) -> None:
    assert with_flags(message, arguments) == shown
