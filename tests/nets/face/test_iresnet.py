"""IResNet: insightface's files and the blocks recomputed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from checks import assert_taps_agree, refusal, with_random_norms
from torch import Tensor
from torch.nn import functional

from facenet2expnet.errors import UserError
from facenet2expnet.nets import face
from facenet2expnet.nets.face.iresnet import check_depth


@pytest.mark.parametrize("wrapper", ["module", "state_dict_backbone"])
def test_reads_insightface_files(tmp_path: Path, wrapper: str) -> None:
    expected = face.load("iresnet18", face.GENERATED)
    state = {re.sub(r"^norm\.", "features.", name): value for name, value in expected.state_dict().items()}
    content: dict[str, object] = {"epoch": 3, "state_dict_backbone": state}
    if wrapper == "module":  # an old file, without batch counters
        content = {f"module.{name}": value for name, value in state.items() if not name.endswith("tracked")}
    torch.save(content, tmp_path / "backbone.pth")
    net = face.load("iresnet18", tmp_path / "backbone.pth")
    assert face.weights_sha256(net) == face.weights_sha256(expected)
    message = refusal("iresnet34", tmp_path / "backbone.pth")
    assert "backbone.pth: expected the weights of iresnet34, got those of iresnet18; name that face net" in message


def norm(state: dict[str, Tensor], name: str, values: Tensor) -> Tensor:
    kinds = ("running_mean", "running_var", "weight", "bias")
    return functional.batch_norm(values, *(state[f"{name}.{kind}"] for kind in kinds))


def prelu(state: dict[str, Tensor], name: str, values: Tensor) -> Tensor:
    return torch.where(values > 0, values, values * state[f"{name}.weight"].view(1, -1, 1, 1))


def reference(state: dict[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
    """IResNet-18 computed from insightface's description and layer names, independent of the code under test."""
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


def test_agrees_with_insightfaces_description() -> None:
    net = with_random_norms("iresnet18")
    crops = torch.randint(0, 256, (2, 3, 112, 112), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        expected = reference(dict(net.state_dict()), (crops / 255 - 0.5) / 0.5)
        assert_taps_agree(net(crops, list(net.info.taps)), expected)


def test_another_depth_is_named() -> None:
    """Also of a deeper net, whose batch norms' counters would otherwise come first in PyTorch's message."""
    depth = enumerate((3, 13, 30, 3), 1)
    blocks = {f"layer{layer}.{n}.bn1.weight": torch.ones(1) for layer, count in depth for n in range(count)}
    with pytest.raises(
        UserError, match="expected the weights of iresnet50, got those of iresnet100; name that face net"
    ):
        check_depth(blocks, Path("r100.pth"), "iresnet50")
    blocks |= {"layer1.3.bn1.weight": torch.ones(1)}
    with pytest.raises(UserError, match=r"another depth, with 4, 13, 30, 3 blocks; there are iresnet18, .*iresnet100$"):
        check_depth(blocks, Path("r.pth"), "iresnet50")
    check_depth({"other": torch.ones(1)}, None, "iresnet50")
