"""VGG-Face: published counts and shapes, and the names under which its weights go round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from facenet2expnet.errors import UserError
from facenet2expnet.nets import face
from facenet2expnet.nets.face.vgg_face import VggFace, renamed
from facenet2expnet.nets.face.weights import generated

DAG_SHAPES = {
    "conv1_1": (64, 3, 3, 3),
    "conv1_2": (64, 64, 3, 3),
    "conv2_1": (128, 64, 3, 3),
    "conv2_2": (128, 128, 3, 3),
    "conv3_1": (256, 128, 3, 3),
    "conv3_2": (256, 256, 3, 3),
    "conv3_3": (256, 256, 3, 3),
    "conv4_1": (512, 256, 3, 3),
    "conv4_2": (512, 512, 3, 3),
    "conv4_3": (512, 512, 3, 3),
    "conv5_1": (512, 512, 3, 3),
    "conv5_2": (512, 512, 3, 3),
    "conv5_3": (512, 512, 3, 3),
    "fc6": (4096, 25088),
    "fc7": (4096, 4096),
    "fc8": (2622, 4096),
}
"""Layers of vgg_face_dag.pth and the shapes of their weights, as published."""
CONVOLUTIONS = [name for name in DAG_SHAPES if name.startswith("conv")]
FEATURES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""The places of VGG-16's convolutions in torchvision's `features`."""


def dag_state() -> dict[str, Tensor]:
    """The names and shapes of vgg_face_dag.pth. Each tensor is one number seen many times: small on disk.

    The first convolution tells red, green and blue apart, as 1, 2 and 3.
    """
    state = {}
    for number, (layer, shape) in enumerate(DAG_SHAPES.items(), start=1):
        plane = (
            torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
            if layer == "conv1_1"
            else torch.tensor(float(number))
        )
        state[f"{layer}.weight"] = plane.expand(shape)
        state[f"{layer}.bias"] = torch.tensor(-float(number)).expand(shape[:1])
    return state


def torchvision_names(classifier: tuple[int, int, int]) -> Callable[[str], str]:
    names = {layer: f"features.{place}" for layer, place in zip(CONVOLUTIONS, FEATURES, strict=True)}
    names |= {f"fc{6 + k}": f"classifier.{place}" for k, place in enumerate(classifier)}
    return names.__getitem__


SPELLINGS: dict[str, tuple[Callable[[str], str], str]] = {
    "vgg_face_dag": (lambda layer: layer, "rgb"),
    "torch": (lambda layer: layer.replace("conv", "conv_"), "bgr"),
    "torch, grouped": (
        lambda layer: f"features.{layer.replace('conv', 'conv_')}" if "conv" in layer else f"fc.{layer}",
        "bgr",
    ),
    "torchvision": (torchvision_names((0, 3, 6)), "bgr"),
    "torchvision, flattened": (torchvision_names((1, 4, 7)), "bgr"),
    "wrapped": (lambda layer: f"module.{layer}", "rgb"),
    "Caffe's own, taken for RGB unless told": (lambda layer: layer, "rgb"),
}


def respelt(spelling: Callable[[str], str]) -> dict[str, Tensor]:
    return {
        f"{spelling(name.rpartition('.')[0])}.{name.rpartition('.')[2]}": value
        for name, value in dag_state().items()
    }


def test_published_parameter_count_and_layers() -> None:
    with torch.device("meta"):
        net = VggFace()
    classifier = 2622 * 4096 + 2622
    assert sum(parameter.numel() for parameter in net.parameters()) == 145_002_878 - classifier == 134_260_544
    assert {name: tuple(value.shape) for name, value in net.state_dict().items()} == {
        name: tuple(value.shape) for name, value in dag_state().items() if not name.startswith("fc8")
    }
    with torch.device("meta"):
        outputs = net.eval()(torch.zeros(1, 3, 224, 224), list(net.info.taps))
    assert {name: tuple(value.shape[1:]) for name, value in outputs.items()} == net.info.taps
    assert net.info.taps["pool4"] == (512, 14, 14)
    assert net.info.taps["pool5"] == (512, 7, 7)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_reads_every_spelling_in_its_colour_order(tmp_path: Path, spelling: str) -> None:
    names, colour = SPELLINGS[spelling]
    path = tmp_path / "weights.pth"
    state = respelt(names)
    if (
        spelling == "Caffe's own, taken for RGB unless told"
    ):  # the fully connected layers as convolutions over the whole map
        state["fc6.weight"] = state["fc6.weight"].reshape(4096, 512, 7, 7)
        state["fc7.weight"] = state["fc7.weight"].reshape(4096, 4096, 1, 1)
    torch.save(state, path)
    net = face.load("vgg-face", path)
    assert net.info.colour == "rgb"
    assert len(net.info.notes) == 1
    assert f"taken for {colour.upper()} by the names of their layers; ask for vgg-face:" in net.info.notes[0]
    for name, value in net.state_dict().items():
        if name != "conv1_1.weight":
            assert torch.equal(value.flatten()[:1], dag_state()[name].flatten()[:1]), name
    first = net.state_dict()["conv1_1.weight"][0, :, 0, 0].tolist()
    assert first == ([1.0, 2.0, 3.0] if colour == "rgb" else [3.0, 2.0, 1.0])


@pytest.mark.parametrize(("colour", "first"), [("rgb", [1.0, 2.0, 3.0]), ("bgr", [3.0, 2.0, 1.0])])
def test_colour_order_of_the_file_can_be_said(tmp_path: Path, colour: str, first: list[float]) -> None:
    path = tmp_path / "weights.pth"
    torch.save(dag_state(), path)
    net = face.load(f"vgg-face:{colour}", path)
    assert net.state_dict()["conv1_1.weight"][0, :, 0, 0].tolist() == first
    assert net.info.notes == (f"The weights are taken for {colour.upper()}, as vgg-face:{colour} says.",)
    with pytest.raises(UserError, match="expected vgg-face, vgg-face:rgb, vgg-face:bgr"):
        face.load("vgg-face:grb", path)


def test_file_without_the_classifier_or_with_another_one(tmp_path: Path) -> None:
    state = {name: value for name, value in dag_state().items() if not name.startswith("fc8")}
    torch.save(state, tmp_path / "none.pth")
    assert list(face.load("vgg-face", tmp_path / "none.pth").info.taps)[-1] == "fc7"
    torch.save(
        state | {"fc8.weight": torch.zeros(10, 4096), "fc8.bias": torch.zeros(10)}, tmp_path / "ten.pth"
    )
    net = face.load("vgg-face", tmp_path / "ten.pth")
    assert list(net.info.taps)[-1] == "fc7"
    assert net.info.notes[1].startswith("The file's head has 10 classes and not VGG-Face's 2,622")


@pytest.mark.parametrize("name", ["vgg-face", "vgg-face:rgb"])
def test_vgg16_of_imagenet_is_refused(tmp_path: Path, name: str) -> None:
    state = respelt(torchvision_names((0, 3, 6)))
    state |= {
        "classifier.6.weight": torch.zeros(1).expand(1000, 4096),
        "classifier.6.bias": torch.zeros(1000),
    }
    torch.save(state, tmp_path / "vgg16.pth")
    with pytest.raises(
        UserError, match=r"look like those of ImageNet's VGG-16 \(1,000 classes\); timm:vgg16 is"
    ):
        face.load(name, tmp_path / "vgg16.pth")


def test_layer_kept_as_a_convolution_is_laid_flat_as_the_map_is() -> None:
    kept = torch.arange(2 * 512 * 49, dtype=torch.float64).reshape(2, 512, 7, 7)
    state, _ = renamed({"fc6.weight": kept})
    features = torch.rand(1, 512, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(
        features.flatten(1) @ state["fc6.weight"].T, functional.conv2d(features, kept).flatten(1)
    )


def test_file_of_other_shapes(tmp_path: Path) -> None:
    torch.save(dag_state() | {"conv1_1.weight": torch.zeros(64, 1, 3, 3)}, tmp_path / "grey.pth")
    with pytest.raises(UserError, match=r"conv1_1\.weight \(64, 1, 3, 3\), not \(64, 3, 3, 3\)"):
        face.load("vgg-face", tmp_path / "grey.pth")


def test_needs_a_file() -> None:
    with pytest.raises(
        UserError,
        match=r"vgg-face brings no weights: give the path of vgg_face_dag\.pth .* vgg-face:bgr where a file from Caffe",
    ):
        face.load("vgg-face")


def reference(state: dict[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
    """VGG-16 written out from its table, apart from the code under test."""
    outputs, features = {}, inputs
    for stage, count in enumerate((2, 2, 3, 3, 3), start=1):
        for index in range(1, count + 1):
            layer = f"conv{stage}_{index}"
            weight, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
            features = functional.conv2d(features, weight, bias, padding=1).clamp(min=0)
        features = functional.max_pool2d(features, kernel_size=2, stride=2)
        outputs[f"pool{stage}"] = features
    features = features.flatten(1)
    for layer in [name for name in ("fc6", "fc7") if f"{name}.weight" in state]:
        features = features @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]
        features = features.clamp(min=0)
        outputs[layer] = features
    return outputs


def test_convolutions_compute_what_the_table_says() -> None:
    def convolutions_alone() -> VggFace:
        net = VggFace()
        net.fc6 = net.fc7 = torch.nn.Identity()  # what is not tapped need not be allocated
        return net

    net = generated(convolutions_alone)
    inputs = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    taps = ["pool1", "pool2", "pool3", "pool4", "pool5"]
    with torch.no_grad():
        ours = net.features(inputs, taps)
        expected = reference(dict(net.state_dict()), inputs)
    for tap in taps:
        torch.testing.assert_close(
            ours[tap], expected[tap], rtol=1e-4, atol=1e-4 * expected[tap].max().item()
        )
        assert ours[tap].std() > 0


@pytest.mark.slow
def test_whole_net_from_a_file_of_true_size(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.empty(value.shape).normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        if name.endswith("weight")
        else torch.zeros(value.shape)
        for name, value in dag_state().items()
    }
    path = tmp_path / "vgg_face_dag.pth"
    torch.save(state, path)
    assert path.stat().st_size > 4 * 145_002_878
    net = face.load("vgg-face", path)
    crops = torch.randint(0, 256, (1, 3, 224, 224), generator=generator).float()
    with torch.no_grad():
        ours = net(crops, list(net.info.taps))
        expected = reference(state, crops - torch.tensor(net.info.mean_rgb).view(1, 3, 1, 1))
    for tap, value in ours.items():
        torch.testing.assert_close(
            value, expected[tap], rtol=1e-3, atol=1e-4 * expected[tap].abs().max().item()
        )
    net.train()
    net(crops, ["fc7"])["fc7"].sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
