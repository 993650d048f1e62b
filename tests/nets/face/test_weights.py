"""Weights files: read without running code, and loaded by name and shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.weights import load_into, read_state_dict


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Linear(4, 2)


def toy_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return Toy().state_dict()


def write(path: Path, kind: str = "torch") -> Path:
    save_file(toy_state(), path) if kind == "safetensors" else torch.save(toy_state(), path)
    return path


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_reads_both_formats_under_any_ending(tmp_path: Path, kind: str, ending: str) -> None:
    read = read_state_dict(write(tmp_path / f"toy{ending}", kind))
    torch.testing.assert_close(read, dict(toy_state()), rtol=0, atol=0)


def test_old_format_and_half_precision(tmp_path: Path) -> None:
    state = toy_state() | {"first.weight": toy_state()["first.weight"].half()}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    read = read_state_dict(tmp_path / "old.pth")
    assert read["first.weight"].dtype == torch.float32
    assert torch.equal(read["first.weight"], state["first.weight"].float())
    assert read["norm.num_batches_tracked"].dtype == torch.int64


def test_wrappers_and_prefixes_are_removed(tmp_path: Path) -> None:
    inner = {f"module.backbone.{name}": value for name, value in toy_state().items()}
    torch.save({"epoch": 3, "model": {"state_dict": inner}}, tmp_path / "wrapped.pth")
    assert set(read_state_dict(tmp_path / "wrapped.pth")) == set(toy_state())


def test_file_without_tensors(tmp_path: Path) -> None:
    around: dict[str, object] = {}
    around["model"] = around
    torch.save(around, tmp_path / "none.pth")
    with pytest.raises(UserError, match="expected a dictionary of tensors by name, got a dict"):
        read_state_dict(tmp_path / "none.pth")


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('the file was run')",))


@pytest.mark.parametrize("content", [{"first.weight": torch.zeros(1), "trap": Trap()}, Toy()])
def test_code_is_refused_and_not_run(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "trap.pth")
    with pytest.raises(UserError, match=r"holds Python objects .* save its weights with torch\.save"):
        read_state_dict(tmp_path / "trap.pth")


@pytest.mark.parametrize("seed", range(8))
def test_damaged_files_raise_only_user_errors(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "toy.pth"
    torch.save(toy_state(), path, _use_new_zipfile_serialization=seed % 2 == 0)
    content, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    for place in rng.integers(0, min(len(content), 600), 8):
        content[place] = rng.integers(0, 256)
    path.write_bytes(bytes(content[: rng.integers(10, len(content))]))
    with pytest.raises(UserError, match=r"toy\.pth"):
        read_state_dict(path)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1", b"<!DOCTYPE html>"])
def test_other_files_are_shown_by_their_beginning(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(UserError) as error:
        read_state_dict(tmp_path / "file.pth")
    assert f"cut short or of another kind; it begins with {content[:40]!r}" in str(error.value)


def test_loads_weights_without_batch_counters() -> None:
    state = toy_state()
    del state["norm.num_batches_tracked"]
    net = load_into(Toy, state, "toy.pth", "toy")
    assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())
    assert int(net.norm.num_batches_tracked) == 0


def test_missing_unexpected_and_misshapen_tensors_are_all_named() -> None:
    state = toy_state()
    del state["second.bias"]
    state["head.weight"] = torch.zeros(5)
    state["first.weight"] = torch.zeros(4, 1, 3, 3)
    with pytest.raises(UserError) as error:
        load_into(Toy, state, "toy.pth", "toy")
    message = str(error.value)
    assert message.startswith('toy.pth: expected the weights of toy; Missing key(s) in state_dict: "second.bias"')
    assert 'Unexpected key(s) in state_dict: "head.weight"' in message
    assert "size mismatch for first.weight" in message
    other = {f"a_long_name_of_a_layer_{number}": torch.zeros(2) for number in range(1000)}
    with pytest.raises(UserError, match="Missing key") as error:
        load_into(Toy, other, "other.pth", "toy")
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(2, 4, dtype=torch.int8), r"toy\.pth: expected the weights of toy; .*second\.weight"),
        (torch.full((2, 4), float("nan")), r"toy\.pth: expected finite weights, second\.weight are not"),
    ],
)
def test_tensors_that_are_no_weights(value: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_into(Toy, toy_state() | {"second.weight": value}, "toy.pth", "toy")
