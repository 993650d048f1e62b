"""The face nets by name: metadata, published parameter counts, generated weights, entry points."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checks import refusal

from facenet2expnet.nets import face

PARAMETERS = {
    "dlib-resnet29": 5_614_592,
    "vgg-face": 145_002_878 - (2622 * 4096 + 2622),
    "iresnet18": 24_025_600,
    "iresnet34": 34_139_328,
    "iresnet50": 43_590_848,
    "iresnet100": 65_156_160,
    "inception-resnet-v1": 27_910_327 - (8631 * 512 + 8631),
}
"""As published, without the classifiers of VGG-Face and Inception-ResNet v1."""


@pytest.mark.parametrize("name", face.available())
def test_published_counts_and_shapes(name: str) -> None:
    with torch.device("meta"):  # names and shapes only
        net = face.load(name, face.GENERATED)
        again = face.load(net.info.name, face.GENERATED)
        outputs = net(torch.zeros(1, 3, net.info.input_px, net.info.input_px), list(net.info.taps))
    assert all(value.is_meta for value in net.state_dict().values())
    assert sum(parameter.numel() for parameter in net.parameters()) == PARAMETERS[name]
    assert {tap: tuple(value.shape[1:]) for tap, value in outputs.items()} == net.info.taps
    assert len(net.info.taps[net.info.embedding]) == 1
    assert len(net.info.taps[net.info.default_tap]) == 3
    assert again.info == net.info


@pytest.mark.parametrize("name", ["iresnet18", "inception-resnet-v1"])
def test_every_parameter_receives_a_gradient(name: str) -> None:
    net = face.load(name, face.GENERATED).train()
    net(torch.rand(2, 3, 112, 112) * 255, ["embedding"])["embedding"].square().sum().backward()
    assert [key for key, value in net.named_parameters() if value.grad is None] == []


@pytest.mark.parametrize("name", ["dlib-resnet29", "iresnet18"])
def test_generated_weights_do_not_depend_on_the_global_seed(name: str) -> None:
    torch.manual_seed(1)
    first = face.load(name, face.GENERATED)
    torch.manual_seed(2)
    second = face.load(name, "generated")
    assert face.weights_sha256(first) == face.weights_sha256(second)
    assert not first.training
    with torch.no_grad():
        output = first(torch.rand(1, 3, 64, 64) * 255, [first.info.default_tap])[first.info.default_tap]
    assert output.isfinite().all()
    assert output.std() > 0


@pytest.mark.parametrize("name", ["vggface", "resnet18", "vgg-face:grb", "dlib-resnet29:bgr", "iresnet18:"])
def test_unknown_names(name: str) -> None:
    message = refusal(name, face.GENERATED)
    assert message.startswith(f"no face net is called '{name}'; there are dlib-resnet29, vgg-face, vgg-face:rgb")
    assert message.endswith("timm:NAME and onnx:PATH")


@pytest.mark.parametrize("name", ["vgg-face", "iresnet50", "inception-resnet-v1"])
def test_nets_without_weights_of_their_own(name: str) -> None:
    assert refusal(name).startswith(f"{name} needs weights: give the path of a file from https://")


def test_entry_point_of_another_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[Path] = []

    class Entry:
        name = "theirs"

        def load(self) -> object:
            return lambda path: given.append(path) or face.load("dlib-resnet29", face.GENERATED)

    monkeypatch.setattr(face, "entry_points", lambda group: [Entry()] * (group == face.ENTRY_POINT_GROUP))
    assert "theirs" in face.available()
    (tmp_path / "their.pth").write_bytes(b"x")
    assert isinstance(face.load("theirs", tmp_path / "their.pth"), face.FaceNet)
    assert given == [tmp_path / "their.pth"]
