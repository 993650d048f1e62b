"""Layers by name, and what happens to input that can't be used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_nets import CROP_PX, TinyFaceNet, expression_net, face_classifier

from facenet2expnet.analysis import layers
from facenet2expnet.errors import UserError


def test_layers_of_an_expression_net_have_the_papers_names_and_shapes():
    shapes = layers.layer_shapes(expression_net(), CROP_PX)
    assert list(shapes) == [f"{kind}{n}" for n in range(1, 6) for kind in ("conv", "pool")] + [
        "bridge",
        "fc6",
        "scores",
    ]
    assert shapes["conv1"] == (4, 32, 32)
    assert shapes["pool5"] == (32, 1, 1)
    assert shapes["bridge"] == (8, 6, 6)
    assert shapes["fc6"] == (16,)
    assert shapes["scores"] == (3,)


def test_layers_of_a_face_net_are_its_taps_and_with_a_classifier_its_scores():
    assert layers.layer_names(TinyFaceNet()) == ("early", "late", "pooled")
    assert layers.layer_shapes(face_classifier(), CROP_PX) == {
        "early": (6, 12, 12), "late": (8, 6, 6), "pooled": (8,), "scores": (3,),
    }  # fmt: skip


@pytest.mark.parametrize("make", [expression_net, face_classifier])
def test_outputs_are_what_the_network_computes(make):
    model = make().eval()
    crops = torch.rand(2, 3, CROP_PX, CROP_PX) * 255
    found = layers.layer_outputs(model, crops, ["scores"])
    torch.testing.assert_close(found["scores"], model(crops))


def test_fc6_and_convolutions_are_read_after_their_relu():
    model = expression_net().eval()
    crops = torch.rand(2, 3, CROP_PX, CROP_PX) * 255
    found = layers.layer_outputs(model, crops, ["conv1", "fc6"])
    convolution = model.net.convolutions.get_submodule("conv1")
    torch.testing.assert_close(found["conv1"], convolution(model.normalise(crops)).relu())
    assert float(found["fc6"].detach().min()) >= 0


def test_responses_use_the_centre_crop_in_evaluation_mode_and_leave_the_mode_as_it_was(faces):
    model = expression_net()
    model.train()
    model.net.head.get_submodule("drop6").p = 0.9  # type: ignore[assignment]
    numbers = [
        (first, out["scores"])
        for first, out in layers.responses(model, faces.pixels, ["scores"], CROP_PX, 50)
    ]
    assert model.training
    assert [first for first, _ in numbers] == [0, 50]
    edge = 2
    crops = torch.from_numpy(faces.pixels[:, edge:-edge, edge:-edge]).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(torch.cat([out for _, out in numbers]), model.eval()(crops).detach())


def test_responses_of_two_networks_side_by_side_leave_gradients_and_modes_on(faces):
    first, second = expression_net().train(), face_classifier().train()
    pair = zip(
        layers.responses(first, faces.pixels, ["fc6"], CROP_PX),
        layers.responses(second, faces.pixels, ["late"], CROP_PX),
        strict=True,
    )
    for _ in pair:
        assert torch.is_grad_enabled()
        assert first.training
        assert second.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("make", [expression_net, face_classifier])
def test_a_probed_layer_carries_the_gradient_of_the_scores(make):
    model = make().eval()
    name = "bridge" if make is expression_net else "late"
    crops = torch.rand(1, 3, CROP_PX, CROP_PX) * 255
    twin, module = layers.probed(model, name)
    kept = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    scores = twin(crops)
    handle.remove()
    torch.testing.assert_close(scores, model(crops))
    (gradient,) = torch.autograd.grad(scores[0, 0], kept[0])
    assert float(gradient.abs().sum()) > 0


def test_an_unknown_layer_is_answered_with_those_that_exist():
    with pytest.raises(UserError, match="tiny has no layer 'fc7'; its layers are early, late, pooled"):
        layers.check_layers(TinyFaceNet(), ["fc7"])


def test_a_layer_without_maps_is_named():
    with pytest.raises(
        UserError, match=r"layer 'fc6' of the expression net is not spatial: it gives 16 numbers"
    ):
        layers.check_spatial(expression_net(), "fc6", CROP_PX)


def test_nan_names_the_layer_and_the_picture(faces):
    model = expression_net()
    with torch.no_grad():
        model.net.bridge.conv.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="layer 'bridge' gives NaN or infinity for picture 0"):
        list(layers.responses(model, faces.pixels, ["bridge"], CROP_PX))


def test_labels_are_checked():
    classes = ("left", "right")
    with pytest.raises(UserError, match="2 of 3 pictures have no label"):
        layers.check_labels(np.array([-1, 0, -1]), classes, 3)
    with pytest.raises(UserError, match="class 'right' has no picture"):
        layers.check_labels(np.array([0, 0, 0]), classes, 3)
    with pytest.raises(UserError, match="one label a picture, got 2 for 3"):
        layers.check_labels(np.array([0, 1]), classes, 3)


def test_pictures_are_checked():
    with pytest.raises(UserError, match="32 or more"):
        layers.check_pixels(np.zeros((2, 20, 20, 3), np.uint8), 32)
    with pytest.raises(UserError, match="got none"):
        layers.check_pixels(np.zeros((0, 40, 40, 3), np.uint8), 32)
    with pytest.raises(UserError, match="float32"):
        layers.check_pixels(np.zeros((2, 40, 40, 3), np.float32), 32)
