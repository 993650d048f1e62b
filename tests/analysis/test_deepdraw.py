"""Gradient ascent: the drawn picture beats every training picture; the seed decides everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_nets import CLASSES, CROP_PX, TinyFaceNet

from facenet2expnet.analysis.deepdraw import DrawRecipe, best_responses, deepdraw, draw
from facenet2expnet.analysis.layers import all_responses
from facenet2expnet.errors import UserError

SHORT = DrawRecipe(octaves=(0.5, 1.0), steps=15)


@pytest.mark.parametrize("name", ["trained_expression_net", "trained_face_net"])
def test_the_picture_scores_higher_than_any_training_picture(name, faces, request):
    model = request.getfixturevalue(name)
    found = draw(model, [0, 1, 2], crop_px=CROP_PX, recipe=SHORT)
    highest = all_responses(model, faces.pixels, "scores", CROP_PX).max(axis=0)
    assert (found.scores > highest).all(), f"{found.scores} against {highest}"


def test_scores_are_those_of_the_8_bit_pictures(trained_expression_net):
    found = draw(trained_expression_net, [0, 2], crop_px=CROP_PX, recipe=SHORT)
    crops = torch.from_numpy(found.pictures).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        scores = trained_expression_net(crops).numpy()
    np.testing.assert_allclose(found.scores, [scores[0, 0], scores[1, 2]], rtol=1e-4)


def test_the_seed_decides(trained_expression_net):
    def pictures(seed: int) -> np.ndarray:
        recipe = DrawRecipe(octaves=(1.0,), steps=5, seed=seed)
        return draw(trained_expression_net, [1], crop_px=CROP_PX, recipe=recipe).pictures

    torch.manual_seed(1)
    first = pictures(0)
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, pictures(0))
    assert (first != pictures(1)).any()


def test_channels_of_a_layer_with_maps_can_be_drawn(faces, trained_face_net):
    found = draw(trained_face_net, [3], crop_px=CROP_PX, layer="late", recipe=SHORT)
    highest = best_responses(trained_face_net, faces.pixels, [3], crop_px=CROP_PX, layer="late")
    maps = all_responses(trained_face_net, faces.pixels, "late", CROP_PX).reshape(72, 8, 36)
    np.testing.assert_allclose(highest, [maps[:, 3].mean(axis=1).max()], rtol=1e-5)
    assert found.scores[0] > highest[0]


def test_drawing_leaves_the_networks_weights_and_gradients_alone(trained_expression_net):
    before = {name: value.clone() for name, value in trained_expression_net.state_dict().items()}
    trained_expression_net.zero_grad(set_to_none=True)
    draw(trained_expression_net, [0], crop_px=CROP_PX, recipe=DrawRecipe(octaves=(1.0,), steps=2))
    assert all(
        torch.equal(before[name], value) for name, value in trained_expression_net.state_dict().items()
    )
    assert all(parameter.grad is None for parameter in trained_expression_net.parameters())


def test_networks_stand_side_by_side_one_column_a_class(faces, trained_expression_net, trained_face_net):
    nets = {"fine-tuned": trained_face_net, "expression net": trained_expression_net}
    finding = deepdraw(
        nets, faces.pixels, range(3), CLASSES, crop_px=CROP_PX, recipe=SHORT, from_mean_face=True
    )
    assert len(finding.figure.axes) == 6
    assert finding.table["network"].tolist() == ["fine-tuned"] * 3 + ["expression net"] * 3
    assert "6 of 6 score higher than any of the 72 pictures" in finding.says


class Blocked(TinyFaceNet):
    """A face net that passes no gradient, as one run by ONNX Runtime."""

    def step(self, name: str, features: torch.Tensor) -> torch.Tensor:
        return super().step(name, features).detach()


def test_bad_input():
    with pytest.raises(UserError, match="layer 'late' of tiny has 8 channels, numbered from 0; number 8 was"):
        draw(TinyFaceNet(), [8], crop_px=CROP_PX, layer="late")
    with pytest.raises(UserError, match="tiny has no layer 'scores'"):
        draw(TinyFaceNet(), [0], crop_px=CROP_PX)
    with pytest.raises(UserError, match="passes no gradient"):
        draw(Blocked(), [0], crop_px=CROP_PX, layer="pooled")
    with pytest.raises(UserError, match="octaves"):
        DrawRecipe(octaves=(0.5,))
