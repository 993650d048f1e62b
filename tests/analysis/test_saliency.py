"""Where a network looks: at the patch that shows the class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_nets import CROP_PX, TinyFaceNet, expression_net

from facenet2expnet.analysis.layers import crops_of
from facenet2expnet.analysis.saliency import integrated_gradients, saliency
from facenet2expnet.errors import UserError

BASELINE = torch.full((1, 3, CROP_PX, CROP_PX), 127.5)


def test_integrated_gradients_add_up_to_the_difference_of_the_scores(student):
    crops = crops_of(student.pixels[:6], CROP_PX, student.net)
    found = integrated_gradients(student.net, crops, 1, BASELINE).sum(dim=(1, 2, 3))
    with torch.no_grad():
        expected = (student.net(crops) - student.net(BASELINE))[:, 1]
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.05)


def test_integrated_gradients_are_captums(student):
    captum = pytest.importorskip("captum.attr")
    crops = crops_of(student.pixels[:3], CROP_PX, student.net)
    expected = captum.IntegratedGradients(student.net).attribute(crops, BASELINE, target=2, n_steps=24)
    torch.testing.assert_close(
        integrated_gradients(student.net, crops, 2, BASELINE),
        expected,
        rtol=1e-3,
        atol=1e-5,
        check_dtype=False,
    )


def test_the_maps_are_on_the_patches(student):
    result = saliency(student, per_class=6)
    scale = CROP_PX / 28
    row, column = result.data["row"] * scale, result.data["column"] * scale
    # Compared with the mean face each class differs in its own patch and, by their lack, in those of the others.
    in_a_patch = np.zeros(len(result.data), bool)
    for top, left in ((10, 3), (10, 20), (22, 12)):
        in_a_patch |= (top - 1 <= row) & (row < top + 8) & (left - 1 <= column) & (column < left + 8)
    assert result.data["share"][in_a_patch].sum() / 3 > 2 * in_a_patch.mean()


def test_thirds_and_maps_sum_to_one(teacher, tmp_path):
    result = saliency(teacher, per_class=3)
    np.testing.assert_allclose(result.table[["upper_third", "middle_third", "lower_third"]].sum(axis=1), 1)
    assert result.table["pictures"].tolist() == [3] * 3
    np.testing.assert_allclose(result.data.groupby("class")["share"].sum(), 1, atol=1e-6)
    assert len(result.figure.axes) == 6
    assert "saliency.png" in {path.name for path in result.save(tmp_path)}


def test_bad_input(student):
    with pytest.raises(UserError, match="expected a network with 3 class scores: left, right, below"):
        saliency(replace(student, nets={"face net": TinyFaceNet()}))
    broken = expression_net()
    with torch.no_grad():
        broken.net.head.get_submodule("scores").weight.fill_(torch.nan)  # type: ignore[union-attr, operator]
    with pytest.raises(UserError, match="gives NaN or infinity"):
        saliency(replace(student, nets={"broken": broken}))
