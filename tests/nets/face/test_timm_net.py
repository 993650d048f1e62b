"""timm models as face nets, with a stand-in for timm; real models are tested if timm is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from checks import refusal
from torch import Tensor, nn

from facenet2expnet.nets import face


class StandIn(nn.Module):
    """What a timm model offers: feature_info, pretrained_cfg, forward_intermediates, forward_head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 2, 2)
        self.body = nn.Conv2d(4, 6, 2, 2)
        self.feature_info = [{"module": "stem", "num_chs": 4}, {"module": "body", "num_chs": 6}]
        self.pretrained_cfg = {"input_size": (3, 16, 16), "mean": (0.1, 0.2, 0.3), "std": (0.2, 0.25, 0.5)}
        self.pretrained_cfg |= {"classifier": "fc", "license": "mit"}
        self.ran: list[str] = []

    def forward_intermediates(
        self, x: Tensor, indices: list[int], output_fmt: str, stop_early: bool, intermediates_only: bool
    ) -> Any:
        maps = [self.stem(x)]
        self.ran.append("stem")
        if not (stop_early and intermediates_only and max(indices) == 0):
            maps.append(self.body(maps[0]))
            self.ran.append("body")
        chosen = [maps[index] for index in indices]
        return chosen if intermediates_only else (maps[-1], chosen)

    def forward_head(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.body(self.stem(x)))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, pretrained: bool, num_classes: int) -> StandIn:
        assert num_classes == 0
        if name != "small_net":
            raise RuntimeError(f"Unknown model ({name})")
        if pretrained:
            raise OSError("We couldn't connect to the hub\nmore")
        return StandIn()

    package = SimpleNamespace(create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", package)


def normalised(net: Any, crops: Tensor) -> Tensor:
    config = net.model.pretrained_cfg
    mean, deviation = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (crops / 255 - mean) / deviation


@pytest.mark.usefixtures("stand_in")
def test_taps_and_preprocessing_stop_after_the_deepest_tap() -> None:
    net: Any = face.load("timm:small_net", face.GENERATED)
    assert net.info.taps == {"stem": (4, 8, 8), "body": (6, 4, 4), "pooled": (6,)}
    assert (net.info.default_tap, net.info.embedding, net.info.licence) == ("body", "pooled", "mit")
    crops = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).float()
    stem = net.model.stem(normalised(net, crops))
    net.model.ran.clear()
    torch.testing.assert_close(net(crops, ["stem"])["stem"], stem)
    assert net.model.ran == ["stem"]
    outputs = net(crops, ["pooled", "stem", "body"])
    assert list(outputs) == ["pooled", "stem", "body"]
    torch.testing.assert_close(outputs["body"], net.model.body(stem))
    torch.testing.assert_close(outputs["pooled"], net(crops, ["pooled"])["pooled"])


@pytest.mark.usefixtures("stand_in")
def test_own_file_loses_its_classifier(tmp_path: Path) -> None:
    state = {name: torch.ones_like(value) for name, value in StandIn().state_dict().items()}
    torch.save(state | {"fc.weight": torch.zeros(10, 6), "fc.bias": torch.zeros(10)}, tmp_path / "own.pth")
    net: Any = face.load("timm:small_net", tmp_path / "own.pth")
    assert torch.equal(net.model.body.weight, torch.ones(6, 4, 2, 2))
    assert (net.info.licence, net.info.source) == ("of the file", str(tmp_path / "own.pth"))
    torch.save({"fc.weight": torch.zeros(10, 6)}, tmp_path / "head.pth")
    message = refusal("timm:small_net", tmp_path / "head.pth")
    assert "head.pth: expected the weights of timm:small_net; Missing key" in message


@pytest.mark.usefixtures("stand_in")
def test_unknown_model_and_missing_hub() -> None:
    message = refusal("timm:none", face.GENERATED)
    assert message.startswith("timm:none: timm can't build it or get its weights (Unknown model (none)); check")
    assert "get its weights (We couldn't connect to the hub); check the name" in refusal("timm:small_net")


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    message = refusal("timm:resnet18")
    assert message.startswith("timm:NAME needs timm and the torchvision that goes with the installed PyTorch (")
    assert message.endswith('pip install "facenet2expnet[timm]"')


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_100"])
def test_real_models(name: str) -> None:
    pytest.importorskip("timm", exc_type=ImportError)
    net: Any = face.load(f"timm:{name}", face.GENERATED)
    crops = torch.randint(0, 256, (2, 3, 224, 224), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        outputs = net(crops, list(net.info.taps))
        expected = net.model(normalised(net, crops))
    assert {tap: tuple(value.shape[1:]) for tap, value in outputs.items()} == net.info.taps
    torch.testing.assert_close(outputs["pooled"], expected, rtol=1e-4, atol=1e-5)
