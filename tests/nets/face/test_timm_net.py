"""timm models as face nets. The tests of real models run where timm is installed, with or without torchvision."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from facenet2expnet.errors import UserError
from facenet2expnet.nets import face


class Named(type):
    """A class of torchvision's that is only named: any attribute of it is its own name."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class EmptyTorchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Every module torchvision.… with every name in it, and nothing behind them: enough for timm to be imported.

    timm's models need torchvision for its names alone; the real one has to go with the installed PyTorch.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "torchvision" else None

    def exec_module(self, module: ModuleType) -> None:
        def found(name: str) -> Named:
            if name.startswith("__"):
                raise AttributeError(name)
            return Named(name, (), {})

        module.__dict__["__getattr__"] = found


@pytest.fixture(scope="module")
def timm() -> Iterator[Any]:
    """The real timm."""
    stand_in = EmptyTorchvision()
    if missing := importlib.util.find_spec("torchvision") is None:
        sys.meta_path.append(stand_in)
    try:
        yield pytest.importorskip("timm")
    finally:
        if missing:
            sys.meta_path.remove(stand_in)
            for name in [name for name in sys.modules if name.partition(".")[0] in ("torchvision", "timm")]:
                del sys.modules[name]


class StandIn(nn.Module):
    """What a timm model offers: feature_info, pretrained_cfg, forward_intermediates, forward_head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 2, 2)
        self.body = nn.Conv2d(4, 6, 2, 2)
        self.feature_info = [{"module": "stem", "num_chs": 4}, {"module": "body", "num_chs": 6}]
        self.pretrained_cfg = {
            "input_size": (3, 16, 16),
            "mean": (0.1, 0.2, 0.3),
            "std": (0.2, 0.25, 0.5),
            "classifier": "fc",
            "license": "mit",
        }
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
        if name.endswith(".nope"):
            raise RuntimeError(f"Invalid pretrained tag (nope) for {name}.")
        if pretrained:
            raise OSError("We couldn't connect to the hub\nmore")
        return StandIn()

    package = SimpleNamespace(
        create_model=create_model,
        list_models=lambda: ["small_net", "other_net"],
        is_model=lambda name: name in ("small_net", "other_net", "old_name"),
    )
    monkeypatch.setitem(sys.modules, "timm", package)


@pytest.mark.usefixtures("stand_in")
def test_taps_preprocessing_and_stopping_early() -> None:
    net: Any = face.load("timm:small_net", face.GENERATED)
    assert net.info.taps == {"stem": (4, 8, 8), "body": (6, 4, 4), "pooled": (6,)}
    assert (net.info.default_tap, net.info.embedding, net.info.licence) == ("body", "pooled", "mit")
    assert net.info.notes == (
        "Red, green and blue are divided by 51, 63.75, 127.5 in truth; the scale is the mean of the three.",
    )
    crops = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).float()
    mean, deviation = (
        torch.tensor(net.model.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std")
    )
    stem = net.model.stem((crops / 255 - mean) / deviation)
    net.model.ran.clear()
    torch.testing.assert_close(net(crops, ["stem"])["stem"], stem)
    assert net.model.ran == ["stem"]
    outputs = net(crops, ["pooled", "stem", "body"])
    assert list(outputs) == ["pooled", "stem", "body"]
    torch.testing.assert_close(outputs["body"], net.model.body(stem))
    torch.testing.assert_close(outputs["pooled"], net(crops, ["pooled"])["pooled"])


@pytest.mark.usefixtures("stand_in")
def test_own_file_without_its_classifier(tmp_path: Path) -> None:
    state = {name: torch.ones_like(value) for name, value in StandIn().state_dict().items()}
    torch.save(state | {"fc.weight": torch.zeros(10, 6), "fc.bias": torch.zeros(10)}, tmp_path / "own.pth")
    net: Any = face.load("timm:small_net", tmp_path / "own.pth")
    assert torch.equal(net.model.body.weight, torch.ones(6, 4, 2, 2))
    assert (net.info.licence, net.info.source) == ("of the file", str(tmp_path / "own.pth"))
    torch.save({"fc.weight": torch.zeros(10, 6)}, tmp_path / "head.pth")
    with pytest.raises(UserError, match="these are not the weights of timm:small_net: 0 of its 4 tensors"):
        face.load("timm:small_net", tmp_path / "head.pth")


@pytest.mark.usefixtures("stand_in")
def test_unknown_model_and_missing_hub() -> None:
    with pytest.raises(UserError, match=r"which has no 'smal_net'; did you mean small_net"):
        face.load("timm:smal_net")
    with pytest.raises(
        UserError, match=r"timm could not get its weights \(We couldn't connect to the hub\); give"
    ):
        face.load("timm:small_net")


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("name", ["small_net.a_tag", "old_name", "hf-hub:owner/name", "hf_hub:owner/name"])
def test_names_that_timm_does_not_list(name: str) -> None:
    assert face.load(f"timm:{name}", face.GENERATED).info.name == f"timm:{name}"


@pytest.mark.usefixtures("stand_in")
def test_tag_that_timm_does_not_know() -> None:
    with pytest.raises(
        UserError, match=r"could not build it \(Invalid pretrained tag \(nope\) for small_net"
    ):
        face.load("timm:small_net.nope", face.GENERATED)


@pytest.mark.usefixtures("timm")
def test_real_tag_and_real_alias() -> None:
    with pytest.raises(UserError, match=r"timm:resnet18\.nope: timm could not build it"):
        face.load("timm:resnet18.nope", face.GENERATED)
    with torch.device("meta"):
        assert face.load("timm:tf_efficientnet_b0_ns", face.GENERATED).info.taps["pooled"] == (1280,)


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        UserError, match=r'needs timm and the torchvision .*; pip install "facenet2expnet\[timm\]"'
    ):
        face.load("timm:resnet18")


SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "resnet18": {
        "act1": (64, 112, 112),
        "layer1": (64, 56, 56),
        "layer2": (128, 28, 28),
        "layer3": (256, 14, 14),
        "layer4": (512, 7, 7),
        "pooled": (512,),
    },
    "vit_tiny_patch16_224": {f"blocks.{block}": (192, 14, 14) for block in range(12)} | {"pooled": (192,)},
}


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "mobilenetv3_small_100"]
)
def test_real_models(name: str) -> None:
    net: Any = face.load(f"timm:{name}", face.GENERATED)
    assert net.info.taps == SHAPES.get(name, net.info.taps)
    with torch.device("meta"):
        assert face.load(f"timm:{name}", face.GENERATED).info == net.info
    crops = torch.randint(0, 256, (2, 3, 224, 224), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        outputs = net(crops, list(net.info.taps))
        config = net.model.pretrained_cfg
        mean, deviation = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        expected = net.model((crops / 255 - mean) / deviation)
    assert {tap: tuple(value.shape[1:]) for tap, value in outputs.items()} == net.info.taps
    torch.testing.assert_close(outputs["pooled"], expected, rtol=1e-4, atol=1e-5)
    net.freeze().train()
    assert not any(module.training for module in net.modules())


def test_real_models_own_file(timm: Any, tmp_path: Path) -> None:
    model = timm.create_model("resnet18", pretrained=False, num_classes=7)
    torch.save(model.state_dict(), tmp_path / "resnet18.pth")
    net: Any = face.load("timm:resnet18", tmp_path / "resnet18.pth")
    assert torch.equal(net.model.layer4[1].conv2.weight, model.layer4[1].conv2.weight)
    assert "fc.weight" not in net.model.state_dict()
