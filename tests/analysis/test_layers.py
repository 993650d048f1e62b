"""Layers by name, their outputs for many images, and the messages for bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_nets import CLASSES, CROP_PX, TinyFaceNet, expression_net, face_classifier, make_inputs

from facenet2expnet.analysis import layers
from facenet2expnet.analysis.inputs import AnalysisInput
from facenet2expnet.errors import UserError


def test_layers_have_the_papers_names_and_shapes():
    shapes = layers.layer_shapes(expression_net(), CROP_PX)
    blocks = [f"{kind}{n}" for n in range(1, 6) for kind in ("conv", "pool")]
    assert list(shapes) == [*blocks, "bridge", "fc6", "scores"]
    chosen = {name: shapes[name] for name in ("conv1", "pool5", "bridge", "fc6", "scores")}
    assert chosen == {
        "conv1": (4, 32, 32), "pool5": (32, 1, 1), "bridge": (8, 6, 6), "fc6": (16,), "scores": (3,),
    }  # fmt: skip
    assert layers.layer_names(TinyFaceNet()) == ("early", "late", "pooled")
    assert layers.layer_shapes(face_classifier(), CROP_PX) == {
        "early": (6, 12, 12), "late": (8, 6, 6), "pooled": (8,), "scores": (3,),
    }  # fmt: skip


@pytest.mark.parametrize("make", [expression_net, face_classifier])
def test_outputs_are_what_the_network_computes(make):
    model = make().eval()
    crops = torch.rand(2, 3, CROP_PX, CROP_PX) * 255
    torch.testing.assert_close(layers.layer_outputs(model, crops, ["scores"])["scores"], model(crops))


def test_fc6_and_convolutions_are_read_after_their_relu_in_the_order_asked_for():
    model = expression_net().eval()
    crops = torch.rand(2, 3, CROP_PX, CROP_PX) * 255
    found = layers.layer_outputs(model, crops, ["fc6", "conv1"])
    assert list(found) == ["fc6", "conv1"]
    expected = model.net.convolutions.get_submodule("conv1")(model.normalise(crops)).relu()
    torch.testing.assert_close(found["conv1"], expected)
    bridged = model.net.bridge(model.net.convolutions(model.normalise(crops)))
    torch.testing.assert_close(found["fc6"], model.net.head[:4](bridged))


def test_batches_are_centre_crops_in_evaluation_mode():
    model = expression_net().train()
    model.net.head.get_submodule("drop6").p = 0.9  # type: ignore[assignment]
    pixels = make_inputs().pixels
    batches = list(layers.layer_batches(model, pixels, ["scores"], CROP_PX, 50))
    assert [first for first, _ in batches] == [0, 50]
    crops = torch.from_numpy(pixels[:, 2:-2, 2:-2]).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(torch.cat([out["scores"] for _, out in batches]), model.eval()(crops).detach())
    features = layers.layer_features(face_classifier(), pixels, "late", CROP_PX)
    assert (features.shape, features.dtype) == ((72, 8 * 36), np.float32)


def test_a_paused_iteration_leaves_gradients_on():
    for _ in layers.layer_batches(expression_net(), make_inputs().pixels, ["fc6"], CROP_PX):
        assert torch.is_grad_enabled()


def test_bad_layers_and_weights_are_named():
    with pytest.raises(UserError, match="no layer 'fc7'; its layers are early, late, pooled"):
        layers.layer_outputs(TinyFaceNet(), torch.zeros(1, 3, 8, 8), ["fc7"])
    model = expression_net()
    with torch.no_grad():
        model.net.bridge.conv.weight.fill_(torch.nan)
    with pytest.raises(UserError, match=r"layer 'bridge' gives NaN or infinity, .* a training that diverged"):
        layers.layer_features(model, make_inputs().pixels, "bridge", CROP_PX)


def test_labels_of_an_analysis_input_are_checked():
    pixels = np.zeros((3, 40, 40, 3), np.uint8)
    for labels in ([-1, 0, 1], [0, 1], [0, 1, 3]):
        with pytest.raises(UserError, match="expected a label for each of 3 images, one of left, right, below"):
            AnalysisInput({}, pixels, np.array(labels), CLASSES, CROP_PX)
    with pytest.raises(UserError, match="class 'below' has no image"):
        AnalysisInput({}, pixels, np.array([0, 0, 1]), CLASSES, CROP_PX)


def test_an_input_gives_the_networks_that_are_there(inputs):
    assert list(inputs.only("expression net", "absent").nets) == ["expression net"]
    assert inputs.only().nets == inputs.nets
    with pytest.raises(UserError, match="the run has no absent; name a network with --net"):
        inputs.only("absent")
    with pytest.raises(UserError, match="expected one network, got 2: fine-tuned face net, expression net"):
        _ = inputs.net
