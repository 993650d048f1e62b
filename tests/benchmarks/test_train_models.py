"""The scripts that make the models to ship: the parts of FER2013, a class left out, weights of 8 bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import fer2013_small
import make
import ship
from facenet2expnet.crop import CropContract
from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.predict.model_folder import Model, load_model, save_model


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    net = ExpNet(4, input_px=32, bridge_chw=(8, 4, 4), width=0.1, hidden=8, blocks="residual", pool_to_tap=True)
    contract = CropContract(stored_px=36, crop_px=32)
    module = ExpressionClassifier(net, contract.mean, contract.scale).eval()
    return Model(module, ("anger", "contempt", "fear", "neutral"), contract, {})


def probabilities(model: Model) -> np.ndarray:
    crops = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 255
    with torch.inference_mode():
        return model.module(crops).softmax(1).numpy()


def test_no_picture_or_copy_is_in_two_parts(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fer2013_small, "TRAINING", 20)
    monkeypatch.setattr(fer2013_small, "CHOOSING", 10)
    monkeypatch.setattr(make, "CALIBRATION", 6)
    manifest = make.pictures(data / "fer2013", tmp_path)
    parts = manifest.table["split"].value_counts().to_dict()
    assert parts == {"train": 31, "test": 10, "valid": 6}  # 48 of Training, of which one is a copy of PublicTest's
    assert not manifest.table["image"].duplicated().any()
    numbers = manifest.table["image"].str.extract(r"(\d+)", expand=False).astype(int)
    assert numbers.max() < 48
    assert 0 not in set(numbers)  # row 48, PublicTest's first, is its copy
    choosing = fer2013_small.subset(
        data / "fer2013", tmp_path, choose=True, unlabelled=0, training=20, labels="ferplus"
    ).table
    own = manifest.table
    assert set(own.loc[own["split"] == "test", "image"]) == set(choosing.loc[choosing["split"] == "test", "image"])


def test_a_class_is_left_out_and_the_others_keep_their_ratios(model: Model) -> None:
    smaller = ship.without_class(model, "contempt")
    assert smaller.classes == ("anger", "fear", "neutral")
    before, after = probabilities(model), probabilities(smaller)
    kept = before[:, [0, 2, 3]]
    np.testing.assert_allclose(after, kept / kept.sum(1, keepdims=True), atol=1e-6)


def test_as_much_of_the_prior_is_taken_as_costs_no_accuracy() -> None:
    shares = pd.Series({"neutral": 0.9, "fear": 0.1})  # log 9 = 2.197
    rows = pd.DataFrame({"truth": ["neutral", "fear", "neutral", "contempt"]})
    rows["p_neutral"], rows["p_fear"] = (
        1 / (1 + np.exp([-3.0, -1.0, -1.2, -1.0])),
        1 / (1 + np.exp([3.0, 1.0, 1.2, 1.0])),
    )
    # from 1.0 / 2.197 = 0.46 on the second is right, from 1.2 / 2.197 = 0.55 on the third is wrong: as many as before
    assert ship.prior_strength(rows, shares) == 1.0
    rows.loc[1, "truth"] = "neutral"
    assert ship.prior_strength(rows, shares) == pytest.approx(0.4)


def test_the_prior_leaves_the_scores_and_they_are_calibrated_again(model: Model, tmp_path: Path) -> None:
    model = replace(ship.without_class(model, "contempt"), metadata={"calibration": {"temperature": 2.0}})
    names, labels = [f"{number}.png" for number in range(12)], ["anger", "fear", "neutral", "contempt"] * 3
    pixels = np.random.default_rng(0).integers(0, 256, (12, 36, 36, 3), np.uint8)
    for name, own in zip(names, pixels, strict=True):
        Image.fromarray(own).save(tmp_path / name)
    rows = pd.DataFrame({"image": names, "label": labels})
    shares = pd.Series({"neutral": 0.5, "anger": 0.4, "fear": 0.1})
    before = probabilities(model)
    changed = ship.without_prior(model, shares, 0.5, rows, tmp_path)
    calibration = changed.metadata["calibration"]
    assert calibration["pictures"] == 9  # the contempt pictures are left out
    temperature = calibration["temperature"] / 2.0
    expected = (before / np.sqrt([0.4, 0.1, 0.5])) ** (1 / temperature)
    np.testing.assert_allclose(probabilities(changed), expected / expected.sum(1, keepdims=True), rtol=1e-4)


def test_what_is_tested_is_what_is_shipped(model: Model, tmp_path: Path) -> None:
    plain = probabilities(model)
    rounded = probabilities(ship.rounded(model))
    save_model(model, tmp_path, int8=True)
    np.testing.assert_array_equal(probabilities(load_model(tmp_path)), rounded)
    assert 0 < np.abs(rounded - plain).max() < 1e-2


def test_recall_counts_the_true_pictures_of_a_class() -> None:
    rows = pd.DataFrame({"truth": ["a", "a", "a", "b"], "predicted": ["a", "b", "a", "a"]})
    assert ship.recall(rows, "a") == pytest.approx(2 / 3)
