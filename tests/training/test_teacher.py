"""The teacher's views on disk: when they are read again and when made anew, shared by folds, what the net is fed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional

import tiny
from facenet2expnet import recipe as recipes
from facenet2expnet.errors import UserError
from facenet2expnet.nets import face
from facenet2expnet.nets.classifier import FaceClassifier
from facenet2expnet.training import stages
from facenet2expnet.training.augment import Augment
from facenet2expnet.training.stages import Setting
from facenet2expnet.training.teacher import TrainingPart, Views, compute_views

pytestmark = pytest.mark.usefixtures("tiny_face_net")

CPU = torch.device("cpu")
FABRIC = Fabric(accelerator="cpu", devices=1)
NAMES = ("crops", "features", "scores", "partners", "weights")


def teacher() -> FaceClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FaceClassifier(tiny.TinyFaceNet(), 3, head_norm=True, head_dropout=0.5).eval()


@pytest.fixture
def part() -> TrainingPart:
    pixels = np.random.default_rng(1).integers(0, 256, (24, 36, 36, 3), dtype=np.uint8)
    return TrainingPart(pixels, np.arange(24) % 3, 3, CPU)


class Cache:
    """Views in a folder; counts how often they were made and keeps the notes."""

    def __init__(self, part: TrainingPart, folder: Path) -> None:
        self.part, self.folder = part, folder
        self.made = 0
        self.notes: list[str] = []

    def open(
        self,
        classifier: FaceClassifier | None = None,
        tap: str = "late",
        count: int = 2,
        part: TrainingPart | None = None,
        augment: Augment | None = None,
        **others: Any,
    ) -> Views:
        augment = augment or Augment(tiny.tiny_recipe().augment, 32)
        settings: dict[str, Any] = {"seed": 0, "fabric": FABRIC} | others
        return compute_views(
            classifier or teacher(), part or self.part, [tap], augment, count, self.folder,
            progress=self.progress, note=self.notes.append, **settings,
        )  # fmt: skip

    def progress(self, done: int, total: int) -> None:
        self.made += done == total

    def file(self, name: str) -> Path:
        (found,) = self.folder.glob(f"views-{name}-*.npy")
        return found


def values_of(views: Views, field: str) -> np.ndarray:
    return views.features["late"] if field == "features" else getattr(views, field)


@pytest.fixture
def cache(part: TrainingPart, tmp_path: Path) -> Cache:
    return Cache(part, tmp_path / "views")


def cut_in_half(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def cut_in_its_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def another_shape(path: Path) -> None:
    np.save(path, np.load(path)[:, :1])


def another_type(path: Path) -> None:
    np.save(path, np.load(path).astype(np.float64))


def no_array(path: Path) -> None:
    path.write_text("no array")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_in_half, "is cut short or damaged"),
        (cut_in_its_header, "is cut short or damaged"),
        (no_array, "is cut short or damaged"),
        (another_shape, r"holds \(24, 1"),
        (another_type, "holds .* float64, expected"),
    ],
)
def test_a_damaged_cache_is_noticed_and_made_anew(
    cache: Cache, name: str, damage: Callable[[Path], None], said: str
) -> None:
    first = {field: np.array(values_of(cache.open(), field)) for field in NAMES}
    damage(cache.file(name))
    again = cache.open()
    assert all(np.array_equal(values_of(again, field), values) for field, values in first.items())
    assert cache.made == 2
    (note,) = cache.notes
    assert re.search(rf"views-{name}-[\w-]+\.npy {said}.* computed anew", note)
    cache.open()
    assert cache.made == 2


def test_an_empty_file_and_a_missing_one_are_made_anew(cache: Cache) -> None:
    cache.open()
    cache.file("features").write_bytes(b"")
    cache.open()
    assert cache.made == 2
    assert len(cache.notes) == 1
    cache.file("features").unlink()
    cache.open()
    assert cache.made == 3


def test_views_of_another_teacher_tap_preprocessing_or_number_are_not_used(cache: Cache) -> None:
    cache.open()
    other, turned = teacher(), teacher()
    with torch.no_grad():
        other.face_net.early.bias += 1
    turned.face_net.info = replace(turned.face_net.info, colour="bgr")
    before = np.array(cache.open().features["late"])
    assert cache.made == 1
    assert not np.allclose(cache.open(other).features["late"], before, atol=0.1)
    assert not np.allclose(cache.open(turned).features["late"], before, atol=0.01)
    assert cache.open(tap="early").features["early"].shape[2:] == (8, 16, 16)
    assert cache.open(count=3).features["late"].shape[1] == 3
    assert cache.made == 5
    cache.open()
    assert cache.made == 5
    assert cache.notes == []


def other_pixels() -> TrainingPart:
    pixels = np.random.default_rng(1).integers(0, 256, (24, 36, 36, 3), dtype=np.uint8)
    pixels[23, 35, 35, 2] ^= 1  # the last number of the last picture
    return TrainingPart(pixels, np.arange(24) % 3, 3, CPU)


@pytest.mark.parametrize(
    "other",
    [
        {"part": other_pixels()},
        {"augment": Augment(tiny.tiny_recipe("augment.erasing=0.3").augment, 32)},
        {"augment": Augment(tiny.tiny_recipe().augment, 31)},
        {"blend": 0.5},
        {"seed": 1},
        {"fabric": Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")},
    ],
    ids=["pictures", "augmentation", "crop size", "blend", "seed", "precision"],
)
def test_views_are_made_anew_where_one_thing_that_they_depend_on_changes(
    cache: Cache, other: dict[str, Any]
) -> None:
    cache.open()
    cache.open(**other)
    assert cache.made == 2
    cache.open()
    cache.open(**other)
    assert cache.made == 2
    assert cache.notes == []


@pytest.mark.parametrize("views", [0, 2])
def test_features_that_are_not_finite_are_told_as_such(
    part: TrainingPart, tmp_path: Path, views: int
) -> None:
    broken = teacher()
    with torch.no_grad():
        broken.face_net.early.weight.fill_(float("nan"))
    setting = Setting(tiny.tiny_recipe(f"stage1.views={views}"), 0, FABRIC)
    with pytest.raises(UserError, match=r"features are not finite; look at its weights") as error:
        stages.fn2en(part, broken, setting, tmp_path)
    assert "stage1.views" not in str(error.value)


def test_features_too_large_for_the_cache(cache: Cache) -> None:
    large = teacher()
    with torch.no_grad():
        large.face_net.late.bias += 1e5
    with pytest.raises(
        UserError, match=r"expected at most 65504 for the cache in half .*: set stage1\.views=0"
    ):
        cache.open(large)
    assert not list(cache.folder.iterdir())


def test_a_folder_that_cannot_be_written(part: TrainingPart, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/views: can't be written \(Not a directory\)"):
        Cache(part, tmp_path / "file" / "views").open()


def test_a_folder_in_the_place_of_a_file(cache: Cache) -> None:
    cache.open()
    path = cache.file("scores")
    path.unlink()
    path.mkdir()
    with pytest.raises(
        UserError, match=r"views-scores-\w+\.npy: expected a file .* found a folder; remove it"
    ):
        cache.open()


def test_what_a_killed_writer_left_is_removed(cache: Cache) -> None:
    cache.folder.mkdir()
    (cache.folder / "views-features-0123456789abcdef.partial").write_bytes(b"half")
    cache.open()
    assert not list(cache.folder.glob("*.partial"))
    assert len(list(cache.folder.iterdir())) == len(NAMES)


def test_the_rows_of_a_fold_are_those_of_the_whole(cache: Cache) -> None:
    whole = cache.open()
    rows = np.array([5, 2, 20, 11])
    some = whole.only(rows)
    examples = torch.tensor([2, 0, 2, 3])
    torch.manual_seed(3)
    index = some.draw(examples)
    assert index[0].tolist() == [20, 5, 20, 11]
    assert some.partners[index].tolist() == examples.tolist()
    features = torch.cat(list(some.batches("late")))
    assert np.array_equal(
        features.numpy(), np.asarray(whole.features["late"], np.float32)[rows].reshape(8, 16, 8, 8)
    )
    assert np.shares_memory(some.features["late"], whole.features["late"])
    assert isinstance(some.crops, np.memmap)


def test_a_fold_never_gets_a_blend_with_a_picture_outside_it(part: TrainingPart, tmp_path: Path) -> None:
    still = Augment(recipes.AugmentRecipe(flip=0.0), 36)
    views = compute_views(teacher(), part, ["late"], still, 2, tmp_path, blend=0.5, seed=0, fabric=FABRIC)
    assert views.only(np.arange(24)).partners.tolist() == views.partners.tolist()
    with pytest.raises(ValueError, match="blended with pictures of the training part alone"):
        views.only(np.arange(12))


def test_the_stages_keep_their_views_where_the_setting_says(part: TrainingPart, tmp_path: Path) -> None:
    made = []
    setting = Setting(
        tiny.tiny_recipe(), 0, FABRIC, progress=lambda *_: made.append(1), views_folder=tmp_path / "shared"
    )
    for training in ("one", "two"):
        stages.fn2en(part, teacher(), setting, tmp_path / training)
        assert not list((tmp_path / training).glob("views-*"))
    assert len(list((tmp_path / "shared").glob("views-*.npy"))) == len(NAMES)
    assert len(made) == 1
    stages.fn2en(part, teacher(), replace(setting, views_folder=None), tmp_path / "three")
    assert len(list((tmp_path / "three").glob("views-*.npy"))) == len(NAMES)


def test_the_face_net_as_it_came_is_frozen_and_always_the_same() -> None:
    recipe = tiny.tiny_recipe("face_net.fine_tuned=false")
    first, second = (stages.as_it_came(recipe, 3, CPU) for _ in range(2))
    assert face.weights_sha256(first) == face.weights_sha256(second)
    assert first.face_net.late.weight.equal(tiny.TinyFaceNet().late.weight)
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())
    assert first(torch.rand(2, 3, 32, 32) * 255).tolist() == [[0.0] * 3] * 2


def test_soft_labels_of_a_teacher_without_scores_are_a_contradiction() -> None:
    with pytest.raises(
        UserError, match=r"stage2\.soft_labels is above 0, expected face_net\.fine_tuned = true"
    ):
        tiny.tiny_recipe("face_net.fine_tuned=false", "stage2.soft_labels=0.5")


class FrozenNet(tiny.TinyFaceNet):
    def __init__(self) -> None:
        super().__init__()
        self.freeze()


def test_a_net_with_nothing_to_train_has_to_be_taken_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face, "load", lambda name, weights=None: FrozenNet())
    with pytest.raises(
        UserError, match=r"face_net\.fine_tuned is true and tiny has nothing to train; set face_net\."
    ):
        stages.check(tiny.tiny_recipe())
    stages.check(tiny.tiny_recipe("face_net.fine_tuned=false"))
    with pytest.raises(
        UserError, match="method 'fine-tune': tiny has nothing to train; leave this method out"
    ):
        stages.check(tiny.tiny_recipe("face_net.fine_tuned=false"), fine_tunes=True)


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("objective", ["p-norm", "standardised-l2", "cosine"])
def test_features_that_are_constant_are_refused(
    part: TrainingPart, tmp_path: Path, objective: str, views: int
) -> None:
    dead = teacher()
    with torch.no_grad():
        dead.face_net.late.bias -= 1e3  # behind the ReLU all is 0
    recipe = tiny.tiny_recipe(
        f"stage1.objective={objective}", f"stage1.views={views}", "stage2.standardised_input=false"
    )
    with pytest.raises(UserError, match=r"all 1024 units .* constant over .* choose another layer"):
        stages.fn2en(part, dead, Setting(recipe, 0, FABRIC), tmp_path)


class Fed(tiny.TinyFaceNet):
    """A net of Caffe's habits, 24 pixels and blue first; remembers what reaches its first layer."""

    info = replace(
        tiny.TinyFaceNet.info, input_px=24, colour="bgr", mean_rgb=(130.0, 105.0, 94.0), scale=2.0,
        taps={"early": (8, 12, 12), "late": (16, 6, 6), "pooled": (16,)},
    )  # fmt: skip

    def features(self, inputs: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        self.inputs = inputs
        return super().features(inputs, taps)


@pytest.mark.parametrize("views", [0, 1])
def test_a_net_of_another_size_and_colour_order_is_fed_its_own_in_training(
    tmp_path: Path, views: int
) -> None:
    red = np.zeros((6, 36, 36, 3), np.uint8)
    red[..., 0] = np.arange(200, 206, dtype=np.uint8)[:, None, None]
    part = TrainingPart(red, np.arange(6) % 3, 3, CPU)
    net = Fed()
    classifier = FaceClassifier(net, 3, head_norm=True, head_dropout=0.0).eval()
    recipe = tiny.tiny_recipe(
        f"stage1.views={views}", "augment.erasing=0", "augment.brightness=0", "augment.rotation_deg=0", "augment.zoom=0"
    )  # fmt: skip
    augment = Augment(recipe.augment, 32)
    if views:
        compute_views(classifier, part, ["late"], augment, views, tmp_path, seed=0, fabric=FABRIC)
    else:
        classifier.with_taps(augment(part.stored(torch.arange(6))), ["late"])
    assert net.inputs.shape == (6, 3, 24, 24)
    blue, green, reds = net.inputs[:, 0], net.inputs[:, 1], net.inputs[:, 2]
    assert torch.allclose(blue, torch.full_like(blue, (0 - 94) / 2))
    assert torch.allclose(green, torch.full_like(green, (0 - 105) / 2))
    expected = (torch.arange(200.0, 206.0) - 130) / 2
    assert torch.allclose(reds, expected[:, None, None].expand_as(reds), atol=1e-3)
    stages.fn2en(part, classifier, Setting(recipe, 0, FABRIC), tmp_path / "training")


def test_an_onnx_net_with_its_colour_order_beside_it_is_the_teacher(
    part: TrainingPart, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    weights = np.random.default_rng(0).normal(0, 0.3, (6, 3, 3, 3)).astype(np.float32)
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Conv", ["picture", "w"], ["maps"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes, "face", [helper.make_tensor_value_info("picture", kind, ["N", 3, 24, 24])],
        [helper.make_tensor_value_info("embedding", kind, ["N", 6])], [onnx.numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "face.onnx")
    (tmp_path / "face.json").write_text(json.dumps({"colour": "bgr", "mean_rgb": [10, 20, 30], "scale": 5}))
    name = f"face_net.name=onnx:{tmp_path / 'face.onnx'}"
    with pytest.raises(UserError, match=r"face_net\.fine_tuned is true and onnx:.* has nothing to train"):
        stages.check(tiny.tiny_recipe(name, "face_net.tap="))
    recipe = tiny.tiny_recipe(name, "face_net.tap=map12", "face_net.fine_tuned=false")
    stages.check(recipe)
    net = stages.as_it_came(recipe, 3, CPU)
    crops = part.stored(torch.arange(4)).float()
    sized = functional.interpolate(crops, size=(24, 24), mode="bilinear", align_corners=False, antialias=True)
    inputs = ((sized - torch.tensor([10.0, 20.0, 30.0]).view(1, 3, 1, 1)) / 5)[:, [2, 1, 0]]
    expected = functional.conv2d(inputs, torch.from_numpy(weights), stride=2, padding=1).relu()
    (found,) = net.with_taps(crops, ["map12"])[1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    model = stages.fn2en(part, net, Setting(recipe, 0, FABRIC), tmp_path / "training")
    assert model(crops[..., :32, :32]).shape == (4, 3)
