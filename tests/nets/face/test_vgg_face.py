"""VGG-Face: the layer names and colour orders of its files, and its layers recomputed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checks import assert_taps_agree, refusal
from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.nets import face
from facenet2expnet.nets.face.vgg_face import VggFace, converted
from facenet2expnet.nets.face.weights import generated


def dag_state() -> dict[str, Tensor]:
    """The weights of vgg_face_dag.pth in name and shape; every tensor is one expanded number, small on disk.

    The first convolution has 1, 2 and 3 for red, green and blue.
    """
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in VggFace().state_dict().items()}
    shapes |= {"fc8.weight": torch.Size([2622, 4096]), "fc8.bias": torch.Size([2622])}
    state = {name: torch.tensor(float(n)).expand(shape) for n, (name, shape) in enumerate(shapes.items())}
    return state | {"conv1_1.weight": torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1).expand(64, 3, 3, 3)}


@pytest.mark.parametrize(
    ("name", "rename", "colour", "reason"),
    [
        ("vgg-face", lambda key: key, "RGB", "layer names say"),
        ("vgg-face", lambda key: key.replace("conv", "conv_"), "BGR", "layer names say"),
        ("vgg-face", lambda key: re.sub("^(conv|fc)", r"features.\1_", key).replace("fc_", "fc"), "BGR", "layer names"),
        ("vgg-face", lambda key: f"module.{key}", "RGB", "layer names say"),
        ("vgg-face:bgr", lambda key: key, "BGR", "vgg-face:bgr asks"),
    ],
)  # fmt: skip
def test_layer_names_and_colour_orders(
    tmp_path: Path, name: str, rename: Callable[[str], str], colour: str, reason: str
) -> None:
    torch.save({rename(key): value for key, value in dag_state().items()}, tmp_path / "weights.pth")
    net = face.load(name, tmp_path / "weights.pth")
    assert (net.info.name, net.info.colour) == ("vgg-face", "rgb")
    assert net.info.notes[0].startswith(f"The weights are taken for {colour}, as {reason}")
    first = [1.0, 2.0, 3.0] if colour == "RGB" else [3.0, 2.0, 1.0]
    for key, value in net.state_dict().items():
        if key == "conv1_1.weight":
            assert value[0, :, 0, 0].tolist() == first
        else:
            assert torch.equal(value.flatten()[:1], dag_state()[key].flatten()[:1]), key


def test_layer_kept_as_a_convolution_is_flattened_as_the_map_is() -> None:
    kept = torch.arange(2 * 512 * 49, dtype=torch.float64).reshape(2, 512, 7, 7)
    state, _ = converted({"fc6.weight": kept})
    features = torch.rand(1, 512, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(
        features.flatten(1) @ state["fc6.weight"].T, functional.conv2d(features, kept).flatten(1)
    )


def test_files_of_other_nets(tmp_path: Path) -> None:
    torch.save(dag_state() | {"conv1_1.weight": torch.zeros(64, 1, 3, 3)}, tmp_path / "grey.pth")
    message = refusal("vgg-face", tmp_path / "grey.pth")
    assert "grey.pth: expected the weights of vgg-face; size mismatch for conv1_1.weight" in message
    torch.save(dag_state() | {"fc8.bias": torch.zeros(1000)}, tmp_path / "caffe.pth")
    message = refusal("vgg-face", tmp_path / "caffe.pth")
    assert "caffe.pth: expected VGG-Face, got a VGG-16 of ImageNet; use timm:vgg16" in message


def reference(state: dict[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
    """VGG-16 computed from its table, independent of the code under test."""
    outputs, features = {}, inputs
    for stage, count in enumerate((2, 2, 3, 3, 3), start=1):
        for index in range(1, count + 1):
            layer = f"conv{stage}_{index}"
            weight, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
            features = functional.conv2d(features, weight, bias, padding=1).clamp(min=0)
        features = functional.max_pool2d(features, kernel_size=2, stride=2)
        outputs[f"pool{stage}"] = features
    features = features.flatten(1)
    for layer in ("fc6", "fc7"):
        features = (features @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]).clamp(min=0)
        outputs[layer] = features
    return outputs


def test_agrees_with_the_table() -> None:
    def with_narrow_layers() -> VggFace:
        net = VggFace()
        net.fc6, net.fc7 = nn.Linear(512 * 7 * 7, 8), nn.Linear(8, 8)  # the wide ones take seconds
        return net

    net = generated(with_narrow_layers).eval()
    crops = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        inputs = crops - torch.tensor(net.info.mean_rgb).view(1, 3, 1, 1)
        assert_taps_agree(net(crops, list(net.info.taps)), reference(dict(net.state_dict()), inputs))
    net.train()(crops, ["fc7"])["fc7"].sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
