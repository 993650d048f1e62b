"""The rehearsal of benchmarks/shards.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import shards as script
import tiny
from facenet2expnet.crop import CropContract
from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.predict.model_folder import Model, save_model


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_all_pictures_are_predicted_and_measured(tmp_path: Path) -> None:
    torch.manual_seed(0)
    contract = CropContract(stored_px=40, crop_px=32)
    net = ExpNet(3, input_px=32, bridge_chw=(8, 2, 2), width=0.1, hidden=8)
    module = ExpressionClassifier(net, contract.mean, contract.scale).eval()
    save_model(Model(module, tiny.CLASSES, contract, {}), tmp_path / "model")
    script.write_pictures(tmp_path / "pictures", 7, different=3)
    row = script.measure(tmp_path / "model", tmp_path / "pictures", tmp_path / "scores")
    assert row["pictures"] == 7
    assert 20 < row["start_mb"] <= row["most_mb"]
    table = pd.read_parquet(tmp_path / "scores" / "parts")
    assert table["label"].notna().all()
    assert table["p_anger"][0] == pytest.approx(table["p_anger"][3], abs=1e-5)  # the same picture
    assert table["p_anger"][0] != table["p_anger"][1]
