"""Gradient ascent: the drawn image beats every training image, and the seed decides it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_nets import CLASSES, CROP_PX, TinyFaceNet

from facenet2expnet.analysis.deepdraw import deepdraw, draw
from facenet2expnet.analysis.layers import layer_features, mean_crop
from facenet2expnet.errors import UserError


def test_images_of_all_networks_score_higher_than_any_training_image(inputs):
    result = deepdraw(inputs, steps=15)
    assert len(result.figure.axes) == 6
    assert result.table["network"].tolist() == ["fine-tuned face net"] * 3 + ["expression net"] * 3
    assert result.table["target"].tolist() == [*CLASSES, *CLASSES]
    assert "6 of 6 score higher than any of the 72 images" in result.summary
    for name, rows in result.table.groupby("network"):
        highest = layer_features(inputs.nets[name], inputs.pixels, "scores", CROP_PX).max(axis=0)
        np.testing.assert_allclose(rows["best_picture_score"], highest, rtol=1e-5)
        assert (rows["score"] > highest).all()


def test_scores_are_those_of_the_8_bit_images_and_weights_stay(student):
    model = student.net
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.zero_grad(set_to_none=True)
    images, scores = draw(model, [0, 2], mean_crop(student.pixels, CROP_PX, model), steps=5)
    with torch.no_grad():
        found = model(torch.from_numpy(images).permute(0, 3, 1, 2).float()).numpy()
    np.testing.assert_allclose(scores, [found[0, 0], found[1, 2]], rtol=1e-4)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_seed_decides(student):
    start = mean_crop(student.pixels, CROP_PX, student.net)
    torch.manual_seed(1)
    first, _ = draw(student.net, [1], start, steps=3)
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, draw(student.net, [1], start, steps=3)[0])
    assert (first != draw(student.net, [1], start, steps=3, seed=1)[0]).any()


def test_channels_of_a_layer_with_maps_can_be_drawn(teacher):
    row = deepdraw(teacher, ["3"], layer="late", steps=15).table.iloc[0]
    maps = layer_features(teacher.net, teacher.pixels, "late", CROP_PX).reshape(72, 8, 36)
    np.testing.assert_allclose(row["best_picture_score"], maps[:, 3].mean(axis=1).max(), rtol=1e-5)
    assert row["score"] > row["best_picture_score"]


class Blocked(TinyFaceNet):
    """A face net that passes no gradient, as one run by ONNX Runtime."""

    def step(self, name: str, features: torch.Tensor) -> torch.Tensor:
        return super().step(name, features).detach()


def test_bad_input(teacher):
    with pytest.raises(UserError, match="target '8' of layer 'late': expected a number below 8"):
        deepdraw(teacher, ["8"], layer="late")
    with pytest.raises(UserError, match="target '' of layer 'late': expected a number below 8"):
        deepdraw(teacher, layer="late")
    with pytest.raises(UserError, match="target 'boredom' of layer 'scores': expected left, right, below"):
        deepdraw(teacher, ["left", "boredom"])
    with pytest.raises(UserError, match="passes no gradient"):
        deepdraw(replace(teacher, nets={"blocked": Blocked()}), ["0"], layer="pooled")
