"""Weights of 8 bits: near to the original, the same when rounded again."""

from __future__ import annotations

from pathlib import Path

import torch

from facenet2expnet.nets.storage import as_int8, from_int8, write_tensors


def test_rounding_by_hand() -> None:
    weights = {
        "a.weight": torch.tensor([[1.27, -0.5, 0.004], [0.0, -254.0, 1.0]]),
        "bias": torch.tensor([0.3, 7.0]),
        "shift": torch.ones(2, 2),
    }
    kept = as_int8(weights)
    assert kept["a.weight"].tolist() == [[127, -50, 0], [0, 127, 0]]
    torch.testing.assert_close(kept["a.weight.scale"], torch.tensor([0.01, -2.0]))
    assert all(kept[name] is weights[name] for name in ("bias", "shift"))
    torch.testing.assert_close(from_int8(kept)["a.weight"], torch.tensor([[1.27, -0.5, 0.0], [0.0, -254.0, 0.0]]))


def test_a_row_differs_by_half_a_step_at_most_and_rounding_again_changes_nothing() -> None:
    torch.manual_seed(0)
    weights = {"conv.weight": torch.randn(5, 4, 3, 3), "dead.weight": torch.zeros(2, 4)}
    kept = as_int8(weights)
    assert {kept[name].dtype for name in weights} == {torch.int8}
    once = from_int8(kept)
    step = weights["conv.weight"].flatten(1).abs().amax(1) / 127
    error = (once["conv.weight"] - weights["conv.weight"]).flatten(1).abs().amax(1)
    assert (error <= 0.501 * step).all()
    assert (once["dead.weight"] == 0).all()
    twice = from_int8(as_int8(once))
    assert sorted(twice) == sorted(weights)
    for name in weights:
        torch.testing.assert_close(twice[name], once[name], rtol=1e-6, atol=0)


def test_a_convolution_of_pixels_is_not_rounded() -> None:
    weights = {"conv.weight": torch.randn(5, 3, 3, 3), "linear.weight": torch.randn(2, 3)}
    kept = as_int8(weights)
    assert kept["conv.weight"] is weights["conv.weight"]
    assert sorted(kept) == ["conv.weight", "linear.weight", "linear.weight.scale"]


def test_others_may_read_the_file_as_they_may_any_other(tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(2)}, {})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode
