"""Weights files: found, read without running code, and a wrong file told from wrong names and wrong shapes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from facenet2expnet.errors import UserError
from facenet2expnet.nets import face
from facenet2expnet.nets.face.weights import load_into, locate, looks_like, read_state_dict


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Linear(4, 2)


def toy_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        name: torch.randn_like(v) if v.is_floating_point() else v for name, v in Toy().state_dict().items()
    }


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_reads_what_was_written(tmp_path: Path, ending: str) -> None:
    path, state = tmp_path / f"toy{ending}", toy_state()
    save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    read = read_state_dict(path)
    assert set(read) == set(state)
    assert all(torch.equal(read[name], value) for name, value in state.items())


def test_reads_files_of_old_pytorch_and_of_half_precision(tmp_path: Path) -> None:
    state = {
        name: value.half() if value.is_floating_point() else value for name, value in toy_state().items()
    }
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    read = read_state_dict(tmp_path / "old.pth")
    assert read["first.weight"].dtype == torch.float32
    assert torch.equal(read["first.weight"], state["first.weight"].float())
    assert read["norm.num_batches_tracked"].dtype == torch.int64


def test_unwraps_and_takes_off_prefixes(tmp_path: Path) -> None:
    inner = {f"module.backbone.{name}": value for name, value in toy_state().items()}
    torch.save({"epoch": 3, "model": {"state_dict": inner}}, tmp_path / "wrapped.pth")
    assert set(read_state_dict(tmp_path / "wrapped.pth")) == set(toy_state())


@pytest.mark.parametrize("rest", [{"head.weight": torch.zeros(5)}, {"first.bias": torch.zeros(4)}])
def test_a_prefix_that_most_names_have_is_taken_off(tmp_path: Path, rest: dict[str, Tensor]) -> None:
    state = {name: value for name, value in toy_state().items() if name not in rest}
    torch.save({f"model.{name}": value for name, value in state.items()} | rest, tmp_path / "toy.pth")
    assert set(read_state_dict(tmp_path / "toy.pth")) == {*state, *rest}


def test_a_prefix_stays_where_two_tensors_would_get_one_name(tmp_path: Path) -> None:
    twice = {"model.a": torch.zeros(1), "model.b": torch.zeros(1), "a": torch.ones(1)}
    torch.save(twice, tmp_path / "toy.pth")
    assert set(read_state_dict(tmp_path / "toy.pth")) == set(twice)


def test_a_dictionary_that_holds_itself(tmp_path: Path) -> None:
    around: dict[str, object] = {}
    around["model"] = around
    torch.save(around, tmp_path / "toy.pth")
    with pytest.raises(UserError, match="expected a dictionary of tensors by name"):
        read_state_dict(tmp_path / "toy.pth")


@pytest.mark.parametrize(("kind", "ending"), [("safetensors", ".pth"), ("torch", ".safetensors")])
def test_a_file_is_told_by_its_content(tmp_path: Path, kind: str, ending: str) -> None:
    path = tmp_path / f"toy{ending}"
    save_file(toy_state(), path) if kind == "safetensors" else torch.save(toy_state(), path)
    assert set(read_state_dict(path)) == set(toy_state())


def test_a_torchscript_file(tmp_path: Path) -> None:
    torch.jit.trace(Toy().first, torch.zeros(1, 3, 8, 8)).save(tmp_path / "toy.pt")
    with pytest.raises(
        UserError, match=r"found a TorchScript model, which holds code; save its weights with"
    ):
        read_state_dict(tmp_path / "toy.pt")


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('the file was run')",))


def test_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"first.weight": torch.zeros(1), "trap": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(UserError, match=r"holds Python objects .* Save it again with torch\.save"):
        read_state_dict(tmp_path / "trap.pth")


def test_a_whole_model_is_refused(tmp_path: Path) -> None:
    torch.save(Toy(), tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"holds Python objects \(a whole model\?\)"):
        read_state_dict(tmp_path / "model.pth")


@pytest.mark.parametrize("seed", range(20))
def test_damaged_files_raise_nothing_but_our_error(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "toy.pth"
    torch.save(toy_state(), path, _use_new_zipfile_serialization=seed % 2 == 0)
    content, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    for place in rng.integers(0, min(len(content), 600), 8):
        content[place] = rng.integers(0, 256)
    path.write_bytes(bytes(content[: rng.integers(10, len(content))]))
    with pytest.raises(UserError, match=r"toy\.pth"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html></html>", "a web page"),
        (b"neither weights nor anything else" * 10, "cut short, damaged or of another kind"),
    ],
)
def test_files_that_are_no_weights(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_state_dict(tmp_path / "file.pth")


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_file_cut_short(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"toy{ending}"
    save_file(toy_state(), path) if ending == ".safetensors" else torch.save(toy_state(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="cut short, damaged or of another kind"):
        read_state_dict(path)


def test_file_without_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "none.pth")
    with pytest.raises(UserError, match="expected a dictionary of tensors by name, found a dict"):
        read_state_dict(tmp_path / "none.pth")


def test_gives_a_net_on_the_meta_device_its_weights() -> None:
    with torch.device("meta"):
        net = Toy()
    state = toy_state()
    del state["norm.num_batches_tracked"]
    load_into(net, state, "toy.pth", "toy")
    assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())
    assert int(net.norm.num_batches_tracked) == 0


def test_wrong_file() -> None:
    other = {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(4)}
    with pytest.raises(UserError) as error:
        load_into(Toy(), other, "other.pth", "toy")
    assert str(error.value) == (
        "other.pth: these are not the weights of toy: 0 of its 8 tensors are there. "
        "Expected first.weight (4, 3, 3, 3), first.bias (4,), norm.weight (4,), norm.bias (4,) and 4 more; "
        "found a (2,), b (3,), c (4,)"
    )


def test_right_file_with_other_names() -> None:
    other = {f"x{number}": value for number, value in enumerate(toy_state().values()) if value.ndim}
    with pytest.raises(
        UserError, match=r"the shapes are those of toy, but the names are others: .* rename them"
    ):
        load_into(Toy(), other, "other.pth", "toy")


def test_missing_foreign_and_misshapen_tensors_are_all_named() -> None:
    state = toy_state()
    del state["second.bias"]
    state["head.weight"] = torch.zeros(5)
    state["first.weight"] = torch.zeros(4, 1, 3, 3)
    with pytest.raises(UserError) as error:
        load_into(Toy(), state, "toy.pth", "toy")
    assert str(error.value) == (
        "toy.pth: most names are those of toy, but 1 tensors are missing: second.bias (2,); "
        "1 tensors do not belong to it: head.weight (5,); "
        "1 tensors have another shape: first.weight (4, 1, 3, 3), not (4, 3, 3, 3)"
    )


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (torch.zeros(2, 4, dtype=torch.int8), "int8"),
        (torch.zeros(2, 4, dtype=torch.complex64), "complex64"),
        (torch.empty(2, 4, device="meta"), "without numbers"),
        (torch.zeros(2, 4).to_sparse(), "sparse"),
        (torch.tensor([[0.0] * 4, [0, 0, 0, float("nan")]]), "not finite"),
    ],
)
def test_tensors_that_are_no_weights(tmp_path: Path, value: Tensor, why: str) -> None:
    torch.save(toy_state() | {"second.weight": value}, tmp_path / "toy.pth")
    state = read_state_dict(tmp_path / "toy.pth")
    with pytest.raises(
        UserError, match=rf"toy\.pth: expected finite .* weights for toy, but second\.weight is {why}$"
    ):
        load_into(Toy(), state, "toy.pth", "toy")


def test_an_iresnet_of_a_depth_that_is_not_here() -> None:
    names = ["layer1.0.prelu.weight", "layer4.0.bn3.weight", *(f"layer3.{n}.conv1.weight" for n in range(60))]
    with pytest.raises(
        UserError, match=r"like those of an IResNet of another depth; there is no such face net here"
    ):
        load_into(Toy(), {name: torch.zeros(1) for name in names}, "r200.pth", "iresnet100")


def test_weights_of_no_net_of_ours_are_not_guessed() -> None:
    assert looks_like(toy_state()) is None


def test_locates_a_path_and_checks_its_sum(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(b"content")
    good = hashlib.sha256(b"content").hexdigest()
    assert locate(path) == path
    assert locate(f"{path}#sha256={good}") == path
    with pytest.raises(UserError, match=f"expected a file with sha256 {'0' * 64}, got one with {good}"):
        locate(f"{path}#sha256={'0' * 64}")
    with pytest.raises(UserError, match="no such file; expected a weights file, hf:owner/name/file or"):
        locate(tmp_path / "none.pth")
    with pytest.raises(UserError, match="a folder; expected a weights file"):
        locate(tmp_path)


def test_url_without_checksum_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"a URL needs the checksum of its file, as in http://x\.org/f\.pth#sha256="
    ):
        locate("http://x.org/f.pth")


def test_names_of_face_nets() -> None:
    assert "vgg-face" in face.available()
    with pytest.raises(
        UserError, match="no face net is called 'vggface'; there are dlib-resnet29, vgg-face, "
    ):
        face.load("vggface")
    with pytest.raises(UserError, match="timm:NAME and onnx:PATH"):
        face.load("resnet18")


@pytest.mark.parametrize("name", ["dlib-resnet29", "iresnet18"])
def test_generated_weights_are_the_same_each_time(name: str) -> None:
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


@pytest.mark.parametrize("name", face.available())
def test_every_net_can_be_built_again_by_the_name_in_its_info(name: str) -> None:
    with torch.device("meta"):  # no draw: names and shapes alone count
        net = face.load(name, face.GENERATED)
        again = face.load(net.info.name, face.GENERATED)
    assert all(value.is_meta for value in net.state_dict().values())
    assert again.info == net.info
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in net.state_dict().items()
    }
    assert net.info.embedding in net.info.taps
    assert net.info.default_tap in net.info.taps
    assert len(net.info.taps[net.info.embedding]) == 1


@pytest.mark.parametrize(
    "name", ["dlib-resnet29:bgr", "iresnet50:bgr", "inception-resnet-v1:x", "iresnet18:", "vgg-face:grb"]
)
def test_nothing_but_a_known_variant_follows_a_built_in_name(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}': expected {name.partition(':')[0]}"):
        face.load(name, face.GENERATED)


def test_entry_point_of_a_third_party(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = []

    class Entry:
        name = "theirs"

        def load(self) -> object:
            def loader(path: Path | None) -> face.FaceNet:
                given.append(path)
                return face.load("dlib-resnet29", face.GENERATED)

            return loader

    monkeypatch.setattr(
        face, "entry_points", lambda group: [Entry()] if group == face.ENTRY_POINT_GROUP else []
    )
    assert "theirs" in face.available()
    (tmp_path / "their.pth").write_bytes(b"x")
    assert isinstance(face.load("theirs", tmp_path / "their.pth"), face.FaceNet)
    assert given == [tmp_path / "their.pth"]
