"""R² by channel between bridge and face net, against scikit-learn's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score
from small_nets import CROP_PX, expression_net, face_classifier, make_inputs

from facenet2expnet.analysis.layers import layer_features
from facenet2expnet.analysis.stage1 import channel_r2, stage1
from facenet2expnet.errors import UserError
from facenet2expnet.nets.classifier import FaceClassifier

PIXELS = make_inputs().pixels


def active_face_net() -> FaceClassifier:
    """The small face net with no channel that is zero for all images."""
    teacher = face_classifier()
    with torch.no_grad():
        teacher.face_net.get_parameter("second.bias").fill_(1.0)
    return teacher


def test_r2_as_it_is_is_scikit_learns():
    student, teacher = expression_net(), active_face_net()
    found = channel_r2(student, teacher, PIXELS, CROP_PX, "late")
    ours = layer_features(student, PIXELS, "bridge", CROP_PX).reshape(72, 8, 36)
    theirs = layer_features(teacher, PIXELS, "late", CROP_PX).reshape(72, 8, 36)
    for channel in range(8):
        expected = r2_score(theirs[:, channel], ours[:, channel], multioutput="variance_weighted")
        assert found["r2_as_is"][channel] == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert found["variance_share"].sum() == pytest.approx(1)


def test_r2_freely_scaled_ignores_a_scale_and_a_shift():
    student, teacher = expression_net(), active_face_net()
    plain = channel_r2(student, teacher, PIXELS, CROP_PX, "late")
    student.net.bridge.set_affine(torch.tensor(3.0), torch.tensor(-7.0))
    moved = channel_r2(student, teacher, PIXELS, CROP_PX, "late")
    np.testing.assert_allclose(plain["r2"], moved["r2"], atol=1e-4)
    assert (moved["r2_as_is"] < plain["r2_as_is"]).all()
    assert plain["r2"].between(0, 1).all()


def test_a_channel_that_never_changes_has_no_r2():
    teacher = active_face_net()
    with torch.no_grad():
        teacher.face_net.get_parameter("second.bias")[2] = -1e6
    found = channel_r2(expression_net(), teacher, PIXELS, CROP_PX, "late")
    for column in ("r2", "r2_as_is"):
        assert found[column].isna().tolist() == [number == 2 for number in range(8)]


def test_stage_one_is_summed_up(inputs):
    result = stage1(inputs)
    row = result.table.iloc[0]
    assert (row["teacher_layer"], row["channels"]) == ("late", 8)
    assert 0 <= row["r2"] <= 1
    assert result.data.columns.tolist() == ["channel", "r2", "r2_as_is", "variance_share"]


def test_a_layer_of_another_shape_is_named(inputs):
    with pytest.raises(UserError, match=r"shape \(8, 6, 6\), the face net's layer 'early' \(6, 12, 12\)"):
        stage1(replace(inputs, tap="early"))
