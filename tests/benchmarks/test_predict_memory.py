"""The memory of fn2en predict does not grow with the length of a video."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import tiny
from facenet2expnet.crop import CropContract
from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.predict.model_folder import Model, save_model


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "faces"), [(100_000, "whole-image"), (2_000, "all")])
def test_ten_frames_and_many_are_within_50_mb(
    frames: int, faces: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Five minutes for the first, on an idle core."""
    pytest.importorskip("av")
    import predict_memory

    contract = CropContract(stored_px=40, crop_px=32)
    torch.manual_seed(0)
    module = ExpressionClassifier(ExpNet(3, input_px=32, width=0.1, hidden=8), contract.mean, contract.scale).eval()
    save_model(Model(module, tiny.CLASSES, contract, {}), tmp_path / "model")
    words = ["predict_memory.py", "--model", tmp_path / "model", "--frames", 10, frames, "--faces", faces]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    assert predict_memory.main() == 0
    assert f"| {frames:,} | {frames:,} |" in capfd.readouterr().out
