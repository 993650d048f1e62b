"""IResNet: published counts and shapes, insightface's names, and the blocks recomputed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from facenet2expnet.errors import UserError
from facenet2expnet.nets import face
from facenet2expnet.nets.face.iresnet import BLOCKS, IResNet

PARAMETERS = {
    "iresnet18": 24_025_600,
    "iresnet34": 34_139_328,
    "iresnet50": 43_590_848,
    "iresnet100": 65_156_160,
}


def norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{kind}": (width,) for kind in kinds} | {f"{name}.num_batches_tracked": ()}


def insightface_shapes(depth: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of arcface_torch's backbone.pth, from its architecture's table."""
    shapes = {"conv1.weight": (64, 3, 3, 3), **norm_shapes("bn1", 64), "prelu.weight": (64,)}
    channels = 64
    for group, (width, count) in enumerate(zip((64, 128, 256, 512), BLOCKS[depth], strict=True), start=1):
        for number in range(count):
            block = f"layer{group}.{number}"
            shapes |= norm_shapes(f"{block}.bn1", channels)
            shapes[f"{block}.conv1.weight"] = (width, channels, 3, 3)
            shapes |= norm_shapes(f"{block}.bn2", width)
            shapes[f"{block}.prelu.weight"] = (width,)
            shapes[f"{block}.conv2.weight"] = (width, width, 3, 3)
            shapes |= norm_shapes(f"{block}.bn3", width)
            if number == 0:
                shapes[f"{block}.downsample.0.weight"] = (width, channels, 1, 1)
                shapes |= norm_shapes(f"{block}.downsample.1", width)
            channels = width
    shapes |= norm_shapes("bn2", 512)
    shapes |= {"fc.weight": (512, 512 * 7 * 7), "fc.bias": (512,)}
    return shapes | norm_shapes("features", 512)


def state_of(depth: str) -> dict[str, Tensor]:
    """insightface's names and shapes, each tensor one number seen many times."""
    return {
        name: torch.tensor(7) if name.endswith("tracked") else torch.tensor(0.5).expand(shape)
        for name, shape in insightface_shapes(depth).items()
    }


@pytest.mark.parametrize("depth", BLOCKS)
def test_published_counts_and_shapes(depth: str) -> None:
    with torch.device("meta"):
        net = IResNet(depth).eval()
        outputs = net(torch.zeros(1, 3, 112, 112), list(net.info.taps))
    assert sum(parameter.numel() for parameter in net.parameters()) == PARAMETERS[depth]
    assert {name: tuple(value.shape[1:]) for name, value in outputs.items()} == net.info.taps
    assert net.info.taps["layer3"] == (256, 14, 14)


@pytest.mark.parametrize("depth", BLOCKS)
@pytest.mark.parametrize("wrapper", ["plain", "module", "state_dict_backbone"])
def test_reads_insightface_files(tmp_path: Path, depth: str, wrapper: str) -> None:
    state = state_of(depth)
    content: dict[str, object] = dict(state)
    if wrapper == "module":
        content = {f"module.{name}": value for name, value in state.items()}
    elif wrapper == "state_dict_backbone":
        content = {"epoch": 3, "state_dict_backbone": state}
    torch.save(content, tmp_path / "backbone.pth")
    net = face.load(depth, tmp_path / "backbone.pth")
    assert {
        name.replace("norm.", "features.", 1) if name.startswith("norm.") else name
        for name in net.state_dict()
    } == (set(state))
    assert not any(value.is_meta for value in net.state_dict().values())
    assert int(net.state_dict()["norm.num_batches_tracked"]) == 7


def test_old_files_without_batch_counters(tmp_path: Path) -> None:
    state = {name: value for name, value in state_of("iresnet18").items() if not name.endswith("tracked")}
    torch.save(state, tmp_path / "old.pth")
    assert int(face.load("iresnet18", tmp_path / "old.pth").state_dict()["bn1.num_batches_tracked"]) == 0


def test_a_deeper_nets_file_is_told_by_name(tmp_path: Path) -> None:
    torch.save(state_of("iresnet100"), tmp_path / "r100.pth")
    with pytest.raises(
        UserError, match="expected the weights of iresnet50, but these look like those of iresnet100"
    ):
        face.load("iresnet50", tmp_path / "r100.pth")


def norm(state: dict[str, Tensor], name: str, values: Tensor) -> Tensor:
    return functional.batch_norm(
        values,
        state[f"{name}.running_mean"],
        state[f"{name}.running_var"],
        state[f"{name}.weight"],
        state[f"{name}.bias"],
    )


def prelu(state: dict[str, Tensor], name: str, values: Tensor) -> Tensor:
    return torch.where(values > 0, values, values * state[f"{name}.weight"].view(1, -1, 1, 1))


def reference(state: dict[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
    """IResNet-18 written out from insightface's description, apart from the code under test."""
    features = functional.conv2d(inputs, state["conv1.weight"], padding=1)
    outputs = {"stem": prelu(state, "prelu", norm(state, "bn1", features))}
    features = outputs["stem"]
    for group in (1, 2, 3, 4):
        for number in (0, 1):
            block, stride = f"layer{group}.{number}", 2 if number == 0 else 1
            residual = norm(state, f"{block}.bn1", features)
            residual = functional.conv2d(residual, state[f"{block}.conv1.weight"], padding=1)
            residual = prelu(state, f"{block}.prelu", norm(state, f"{block}.bn2", residual))
            residual = functional.conv2d(residual, state[f"{block}.conv2.weight"], stride=stride, padding=1)
            residual = norm(state, f"{block}.bn3", residual)
            if number == 0:
                features = functional.conv2d(features, state[f"{block}.downsample.0.weight"], stride=2)
                features = norm(state, f"{block}.downsample.1", features)
            features = features + residual
        outputs[f"layer{group}"] = features
    features = norm(state, "bn2", features).flatten(1) @ state["fc.weight"].T + state["fc.bias"]
    outputs["embedding"] = norm(state, "norm", features)
    return outputs


def test_computes_what_insightface_describes() -> None:
    net = face.load("iresnet18", face.GENERATED)
    generator = torch.Generator().manual_seed(1)
    for name, value in net.state_dict().items():
        if value.ndim == 1:
            low, high = (0.5, 1.5) if name.endswith(("weight", "running_var")) else (-0.2, 0.2)
            value.uniform_(low, high, generator=generator)
    crops = torch.randint(0, 256, (2, 3, 112, 112), generator=generator).float()
    with torch.no_grad():
        ours = net(crops, list(net.info.taps))
        expected = reference(dict(net.state_dict()), (crops / 255 - 0.5) / 0.5)
    for tap, value in ours.items():
        torch.testing.assert_close(
            value, expected[tap], rtol=1e-3, atol=1e-4 * expected[tap].abs().max().item()
        )


def test_every_parameter_receives_a_gradient() -> None:
    net = face.load("iresnet18", face.GENERATED).train()
    net(torch.rand(2, 3, 112, 112) * 255, ["embedding"])["embedding"].square().sum().backward()
    assert [name for name, value in net.named_parameters() if value.grad is None] == []


def test_frozen_batch_norms_keep_their_statistics() -> None:
    net = face.load("iresnet18", face.GENERATED)
    before = face.weights_sha256(net)
    net.requires_grad_(False).train()
    net(torch.rand(2, 3, 112, 112) * 255, ["layer1"])
    assert face.weights_sha256(net) == before
