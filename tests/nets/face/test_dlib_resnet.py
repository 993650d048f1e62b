"""dlib's ResNet-29 in PyTorch against dlib itself, on photographs of faces."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from checks import refusal
from PIL import Image

from facenet2expnet.files import package_file
from facenet2expnet.nets import face
from facenet2expnet.nets.face import dlib_resnet
from facenet2expnet.nets.face.dlib_resnet import AffineConv, DlibResNet29

if find_spec(dlib_resnet.PACKAGE) is None:
    pytest.skip("the package with dlib's weights is not installed", allow_module_level=True)

WEIGHTS_SHA256 = "89be04babecc9930fc999a275d1e64635740d2015b76c9b0648842797d7d86c0"
WINDOWS_PX = ((0, 150, 150), (20, 140, 150), (40, 180, 150), (0, 120, 220), (10, 100, 260), (60, 190, 90))
"""Top, left and side of squares around the face in scikit-image's picture of Eileen Collins."""


def bundled_file() -> Path:
    return package_file(dlib_resnet.PACKAGE, f"models/{dlib_resnet.FILE}", "")


@pytest.fixture(scope="module")
def net() -> DlibResNet29:
    return dlib_resnet.load().eval()


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """(12, 150, 150, 3) uint8 RGB: six windows, plain and mirrored."""
    data = pytest.importorskip("skimage.data")
    picture = Image.fromarray(data.astronaut())
    resize = partial(picture.resize, (150, 150), Image.Resampling.BILINEAR)
    upright = [np.asarray(resize((left, top, left + side, top + side))) for top, left, side in WINDOWS_PX]
    return np.stack(upright + [crop[:, ::-1] for crop in upright])


def tensor(crops: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2))).float()


def test_descriptor_is_dlibs_own(net: DlibResNet29, crops: np.ndarray) -> None:
    dlib = pytest.importorskip("dlib")
    witness = dlib.face_recognition_model_v1(str(bundled_file()))
    expected = np.stack([witness.compute_face_descriptor(np.ascontiguousarray(crop)) for crop in crops])
    with torch.no_grad():
        ours = net(tensor(crops), ["descriptor"])["descriptor"].numpy()
    assert np.abs(ours - expected).max() < 1e-5
    assert np.abs(expected[0] - expected[3]).max() > 0.01  # the windows do differ


def test_a_tap_does_not_depend_on_the_others(net: DlibResNet29, crops: np.ndarray) -> None:
    inputs = tensor(crops[:2])
    with torch.no_grad():
        together = net(inputs, list(net.info.taps))
        for name in net.info.taps:
            (alone,) = net(inputs, [name]).values()
            torch.testing.assert_close(alone, together[name])
            assert alone.is_contiguous()


def test_stops_after_the_deepest_tap(net: DlibResNet29) -> None:
    reached: list[int] = []
    hook = net.level1.register_forward_hook(lambda *_: reached.append(1))
    with torch.no_grad():
        net(torch.zeros(1, 3, 150, 150), ["level2", "stem"])
        assert not reached
        net(torch.zeros(1, 3, 150, 150), ["level1"])
        assert reached
    hook.remove()


def test_all_parameters_receive_gradients(crops: np.ndarray) -> None:
    net = dlib_resnet.load().train()
    assert sum(isinstance(module, AffineConv) for module in net.modules()) == 29
    net(tensor(crops[:2]), ["descriptor"])["descriptor"].square().sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in net.parameters())


def test_weights_hash_is_stable(net: DlibResNet29) -> None:
    assert face.weights_sha256(net) == face.weights_sha256(face.load("dlib-resnet29")) == WEIGHTS_SHA256


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlib_resnet, "PACKAGE", "no_such_package_of_models")
    assert "is not installed; pip install 'facenet2expnet[facenet]'" in refusal("dlib-resnet29")


@pytest.mark.parametrize("kept", [0, 40, 10_000, 1_000_000, 22_334_700, 22_400_000])
def test_file_cut_short(tmp_path: Path, kept: int) -> None:
    cut = tmp_path / "model.dat"
    cut.write_bytes(bundled_file().read_bytes()[:kept])
    message = refusal("dlib-resnet29", cut)
    assert f"model.dat: expected {dlib_resnet.FILE}, got a file of {kept:,} bytes that is cut short" in message
