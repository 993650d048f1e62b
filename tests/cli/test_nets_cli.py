"""fn2en nets: the list, and all metadata of one face net."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from facenet2expnet.cli import console, main
from facenet2expnet.nets import face

Nets = Callable[..., tuple[int, str]]


@pytest.fixture
def nets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Nets:
    """Runs `fn2en nets …`; gives the exit code and what was printed."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fn2en", "nets", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.run()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out + printed.err

    return run


def words(printed: str) -> str:
    """What was printed, as one line."""
    return re.sub(r"\s+", " ", printed)


def test_list_fits_a_terminal_and_draws_no_weights(nets: Nets, monkeypatch: pytest.MonkeyPatch) -> None:
    def normal(numbers: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        assert numbers.is_meta
        return numbers

    monkeypatch.setattr(torch.Tensor, "normal_", normal)
    code, printed = nets()
    assert code == 0
    assert max(map(len, printed.splitlines())) <= console.PLAIN_WIDTH
    for name in face.available():
        assert f"\n{name}: " in f"\n{printed}"
    assert "vgg-face: 224 px, 134,260,544 parameters, needs weights licence CC-BY-NC-4.0" in words(printed)
    assert "pool5 512x7x7 (default)" in words(printed)


def test_a_loader_that_fails_does_not_end_the_list(nets: Nets, monkeypatch: pytest.MonkeyPatch) -> None:
    from facenet2expnet.errors import UserError

    class Entry:
        name = "theirs"

        @staticmethod
        def load() -> object:
            raise UserError("their package is not here")

    monkeypatch.setattr(face, "entry_points", lambda group: [Entry()])
    code, printed = nets()
    assert code == 0
    assert "theirs: their package is not here" in words(printed)
    assert "dlib-resnet29: 150 px" in printed


def test_all_metadata_of_one_net(nets: Nets) -> None:
    code, printed = nets("iresnet50", "inception-resnet-v1")
    assert code == 0
    first, second = printed.split("inception-resnet-v1\n")
    for line in (
        "input 112 x 112 px, RGB",
        "pixels (pixel - [127.5, 127.5, 127.5]) / 127.5",
        "weights 43,590,848 parameters",
        "licence of the file; insightface's own are for research only",
        "source https://github.com/deepinsight/insightface/",
        "missing iresnet50 needs weights: give the path",
        "layer4 512x7x7 (default of stage 1) embedding 512 (gets a new classifier for fine-tuning)",
    ):
        assert line in words(first)
    assert "pixels (pixel - [127.5, 127.5, 127.5]) / 128" in words(second)


def test_weights_and_the_note_on_their_colour_order(nets: Nets, tmp_path: Path) -> None:
    from facenet2expnet.nets.face.vgg_face import VggFace

    with torch.device("meta"):
        shapes = VggFace().state_dict()
    state = {name: torch.zeros(1).expand(value.shape) for name, value in shapes.items()}
    torch.save(state, tmp_path / "caffe.pth")
    code, printed = nets("vgg-face", "--weights", tmp_path / "caffe.pth")
    assert code == 0
    assert "missing" not in printed
    assert "note The weights are taken for RGB, as layer names say; vgg-face:rgb and" in words(printed)
    code, printed = nets("vgg-face", "--weights", tmp_path / "none.pth")
    assert code == 2
    assert "none.pth: no such file" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "a.pth"], "--weights a.pth: expected one NAME with it, got 0"),
        (["iresnet18", "iresnet50", "--weights", "a.pth"], "expected one NAME with it, got 2"),
        (["resnet"], "no face net is called 'resnet'; there are dlib-resnet29"),
    ],
)
def test_wrong_arguments(nets: Nets, arguments: list[str], message: str) -> None:
    code, printed = nets(*arguments)
    assert code == 2
    assert message in printed
    assert "Traceback" not in printed
