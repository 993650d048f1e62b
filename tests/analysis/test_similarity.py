"""R² by channel and CKA, against hand-made cases and scikit-learn's own R²."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score
from small_nets import CROP_PX, TinyFaceNet, expression_net, face_classifier

from facenet2expnet.analysis.layers import all_responses
from facenet2expnet.analysis.similarity import channel_r2, cka_table, gram, linear_cka
from facenet2expnet.errors import UserError
from facenet2expnet.nets.classifier import FaceClassifier


def lively_face_net() -> FaceClassifier:
    """The small face net with no channel that is silent for all pictures."""
    teacher = face_classifier()
    with torch.no_grad():
        teacher.face_net.get_parameter("second.bias").fill_(1.0)
    return teacher


def test_cka_of_equal_features_is_one_and_does_not_see_rotation_scale_or_shift():
    generator = np.random.default_rng(0)
    features = generator.standard_normal((40, 6))
    rotation, _ = np.linalg.qr(generator.standard_normal((6, 6)))
    assert linear_cka(gram(features), gram(features)) == pytest.approx(1, abs=1e-5)
    assert linear_cka(gram(features), gram(3 * features @ rotation + 5)) == pytest.approx(1, abs=1e-4)


def test_cka_of_independent_features_is_about_zero_even_with_more_features_than_pictures():
    generator = np.random.default_rng(1)
    found = [
        linear_cka(gram(generator.standard_normal((50, 2000))), gram(generator.standard_normal((50, 2000))))
        for _ in range(5)
    ]
    assert abs(np.mean(found)) < 0.05


def test_cka_of_a_constant_layer_is_not_known():
    assert np.isnan(
        linear_cka(gram(np.ones((10, 3))), gram(np.random.default_rng(0).standard_normal((10, 3))))
    )
    with pytest.raises(UserError, match="four pictures or more, got 3"):
        linear_cka(np.eye(3), np.eye(3))


def test_a_layer_is_most_like_itself(faces):
    net = TinyFaceNet()
    table = cka_table(
        net,
        net,
        faces.pixels,
        crop_px=CROP_PX,
        first_layers=["early", "pooled"],
        second_layers=["early", "pooled"],
    )
    matrix = table["cka"].to_numpy().reshape(2, 2)
    np.testing.assert_allclose(np.diag(matrix), 1, atol=1e-4)
    assert (matrix - np.eye(2) * 2 < 1).all()
    assert matrix[0, 1] == pytest.approx(matrix[1, 0], abs=1e-4)


def test_r2_as_it_is_is_scikit_learns(faces):
    student, teacher = expression_net(), lively_face_net()
    found = channel_r2(student, teacher, faces.pixels, crop_px=CROP_PX, teacher_layer="late")
    ours = all_responses(student, faces.pixels, "bridge", CROP_PX).reshape(72, 8, 36)
    theirs = all_responses(teacher, faces.pixels, "late", CROP_PX).reshape(72, 8, 36)
    for channel in range(8):
        expected = r2_score(theirs[:, channel], ours[:, channel], multioutput="variance_weighted")
        assert found["r2_as_is"][channel] == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert found["variance_share"].sum() == pytest.approx(1)


def test_r2_freely_scaled_does_not_see_a_scale_and_a_shift(faces):
    teacher = lively_face_net()
    student = expression_net()
    plain = channel_r2(student, teacher, faces.pixels, crop_px=CROP_PX, teacher_layer="late")
    student.net.bridge.set_affine(torch.tensor(3.0), torch.tensor(-7.0))
    moved = channel_r2(student, teacher, faces.pixels, crop_px=CROP_PX, teacher_layer="late")
    np.testing.assert_allclose(plain["r2"], moved["r2"], atol=1e-4)
    assert (moved["r2_as_is"] < plain["r2_as_is"]).all()
    assert plain["r2"].dropna().between(0, 1).all()


def test_layers_of_other_shapes_are_named(faces):
    with pytest.raises(UserError, match=r"layer 'early' of tiny, fine-tuned \(6, 12, 12\)"):
        channel_r2(expression_net(), face_classifier(), faces.pixels, crop_px=CROP_PX, teacher_layer="early")


def test_a_channel_that_never_changes_has_no_r2(faces):
    teacher = lively_face_net()
    with torch.no_grad():
        teacher.face_net.get_parameter("second.bias")[2] = -1e6
    found = channel_r2(expression_net(), teacher, faces.pixels, crop_px=CROP_PX, teacher_layer="late")
    assert found["r2"].isna().tolist() == [number == 2 for number in range(8)]
    assert found["r2_as_is"].isna().tolist() == [number == 2 for number in range(8)]
