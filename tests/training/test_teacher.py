"""The training set reads only the rows of a batch; the teacher's cached views: their content and their reuse."""

from __future__ import annotations

import logging
import os
import shutil
import tracemalloc
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import CPU, STILL, context, faces, teacher, teaching

import tiny
from facenet2expnet.errors import StageStopped, UserError
from facenet2expnet.nets import face
from facenet2expnet.nets.classifier import FaceClassifier
from facenet2expnet.training import stages
from facenet2expnet.training.augment import Augment
from facenet2expnet.training.teacher import CachedViews, TrainingSet, cache_views, drop_views

pytestmark = pytest.mark.usefixtures("tiny_face_net")

FIELDS = ("crops", "features", "scores", "partners", "weights")


def test_a_training_set_on_the_device_gives_the_same_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2100, 8, 8, 3), dtype=np.uint8)
    rows = np.arange(2099, 0, -2)
    read = TrainingSet(pixels, rows, rows % 3, 3, CPU)
    monkeypatch.setattr("facenet2expnet.training.teacher._fits", lambda size, device: size == 1050 * 8 * 8 * 3)
    resident = TrainingSet(pixels.copy(), rows, rows % 3, 3, CPU)
    numbers = torch.tensor([0, 1049, 3, 3, 1024])
    expected = read.stored(numbers)
    assert torch.equal(resident.stored(numbers), expected)
    resident.pixels[:] = 0  # the pictures are not read again
    assert torch.equal(resident.stored(numbers), expected)


def random_faces() -> TrainingSet:
    pixels = np.random.default_rng(1).integers(0, 256, (24, 36, 36, 3), dtype=np.uint8)
    return TrainingSet(pixels, np.arange(24), np.arange(24) % 3, 3, CPU)


class Cache:
    """Cached views in a folder; counts how often they were computed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.computed = folder, 0

    def views(self, **others: Any) -> CachedViews:
        given = {
            "teacher": teacher(), "data": random_faces(), "tap": "late", "count": 2, "seed": 0,
            "augment": Augment(tiny.tiny_recipe().augment, 32), "progress": self.progress,
        }  # fmt: skip
        return cache_views(folder=self.folder, **given | others)

    def progress(self, done: int, total: int) -> None:
        self.computed += done == total

    def file(self, field: str) -> Path:
        (found,) = self.folder.glob(f"views-*/{field}.npy")
        return found


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "views")


def test_a_training_set_reads_only_the_pictures_that_it_is_asked_for(tmp_path: Path) -> None:
    pixels = np.lib.format.open_memmap(tmp_path / "pixels.npy", "w+", np.uint8, (1000, 64, 64, 3))
    pixels[:] = (np.arange(1000) % 251).astype(np.uint8)[:, None, None, None]
    pixels.flush()
    rows = np.arange(999, 0, -2)
    tracemalloc.start()
    data = TrainingSet(np.load(tmp_path / "pixels.npy", mmap_mode="r"), rows, np.arange(500) % 3, 3, CPU)
    stored = data.stored(torch.tensor([0, 2, 499]))
    crops = next(data.centre_crops(32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert stored.shape == (3, 3, 64, 64)
    assert stored[:, 0, 0, 0].tolist() == [999 % 251, 995 % 251, 1]
    assert crops.shape == (64, 3, 32, 32)
    assert crops[:, 0, 0, 0].tolist() == (rows[:64] % 251).tolist()
    assert peak < 2_000_000  # the whole array is 12 MB, a batch of 64 faces 0.8 MB


def test_a_training_set_counts_those_of_its_own_pictures_that_have_colour() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1100, 4, 4, 1), dtype=np.uint8).repeat(3, 3)
    pixels[1099, 3, 3] = 7, 7, 8
    rows = np.arange(1100)
    assert TrainingSet(pixels, rows[:1099], np.zeros(1099), 2, CPU).coloured(9) == 0
    assert TrainingSet(pixels, rows, np.zeros(1100), 2, CPU).coloured(9) == 1


def test_labels_and_hash_of_a_training_set() -> None:
    pixels = random_faces().pixels
    data = TrainingSet(pixels, np.array([3, 5, 7]), np.array([0, -1, 2]), 3, CPU)
    assert data.labelled.tolist() == [0, 2]
    same = TrainingSet(pixels[[3, 5, 7]].copy(), np.arange(3), np.array([0, 0, 0]), 3, CPU)
    assert data.pixels_sha256() == same.pixels_sha256()
    other = TrainingSet(pixels, np.array([5, 3, 7]), np.zeros(3), 3, CPU)
    assert data.pixels_sha256() != other.pixels_sha256()


def test_cached_views_hold_what_the_live_teacher_gives_for_their_crops(cache: Cache) -> None:
    views = cache.views(count=3)
    assert views.crops.shape == (24, 3, 3, 32, 32)
    assert (views.weights == 1).all()
    assert (views.partners == np.arange(24)[:, None]).all()
    crops = torch.from_numpy(np.array(views.crops)).flatten(0, 1).float()
    with torch.no_grad():
        scores, (features,) = teacher().with_taps(crops, ["late"])
    half = {"rtol": 2**-10, "atol": 1e-6}
    assert np.allclose(views.features.reshape(72, 16, 8, 8), features, **half)
    assert np.allclose(views.scores.reshape(72, 3), scores, atol=1e-5)
    assert np.array_equal(torch.cat(list(views.batches())), views.features.reshape(72, 16, 8, 8).astype("f4"))
    assert len({views.crops[5, view].tobytes() for view in range(3)}) == 3


def test_stage_1_sees_the_same_with_cached_views_as_with_the_live_teacher(cache: Cache) -> None:
    """Without augmentation both give the stored face and its features, within half precision."""
    data, examples = faces(), torch.tensor([4, 0, 17])
    views = cache.views(data=data, augment=STILL, count=1)
    crops = STILL(data.stored(examples))
    cached_crops, cached = views.read(views.draw(examples), data.device, "crops", "features")
    torch.testing.assert_close(cached_crops.float(), crops, rtol=0, atol=1e-3)
    torch.testing.assert_close(cached.float(), teaching(data).ask(crops)[1], rtol=2**-10, atol=1e-5)


def test_a_seed_gives_the_same_views_and_another_seed_others(cache: Cache, tmp_path: Path) -> None:
    first, again, other = cache.views(), Cache(tmp_path / "again").views(), cache.views(seed=1)
    assert all(np.array_equal(getattr(first, field), getattr(again, field)) for field in FIELDS)
    assert not np.array_equal(first.crops, other.crops)


def another_colour_order() -> FaceClassifier:
    net = teacher()
    net.face_net.info = replace(net.face_net.info, colour="bgr")
    return net


def other_weights() -> FaceClassifier:
    net = teacher()
    net.face_net.early.bias.data += 1
    return net


def other_pixels() -> TrainingSet:
    data = random_faces()
    data.pixels[23, 35, 35, 2] ^= 1  # the last number of the last picture
    return data


@pytest.mark.parametrize(
    "other",
    [
        {"teacher": other_weights()},
        {"teacher": another_colour_order()},
        {"tap": "early"},
        {"data": other_pixels()},
        {"augment": Augment(tiny.tiny_recipe("augment.erasing=0.3").augment, 32)},
        {"augment": Augment(tiny.tiny_recipe().augment, 31)},
        {"count": 3},
        {"mixed": 0.5},
        {"seed": 1},
        {"precision": "bf16-mixed"},
    ],
    ids=["weights", "colours", "tap", "pixels", "augmentation", "crop size", "count", "mixes", "seed", "precision"],
)  # fmt: skip
def test_views_are_computed_again_if_anything_that_they_depend_on_changes(
    cache: Cache, other: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    cache.views()
    cache.views(**other)
    assert cache.computed == 2
    cache.views()
    cache.views(**other)
    assert cache.computed == 2
    assert not caplog.records


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def put_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        cut_in_half,
        put_a_folder,
        lambda path: os.truncate(path, 0),
        lambda path: os.truncate(path, 20),
        lambda path: path.write_text("not an array"),
        lambda path: np.save(path, np.load(path)[:, :1]),
        lambda path: np.save(path, np.load(path).astype(np.float64)),
    ],
    ids=["missing", "half", "a folder", "empty", "half a header", "text", "shape", "type"],
)
def test_damaged_files_are_computed_again(
    cache: Cache, field: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    first = {name: np.array(getattr(cache.views(), name)) for name in FIELDS}
    damage(cache.file(field))
    again = cache.views()
    assert all(np.array_equal(getattr(again, name), values) for name, values in first.items())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().endswith("is damaged; the teacher's views are computed again.")
    cache.views()
    assert cache.computed == 2


def test_half_written_views_of_a_killed_process_are_deleted(cache: Cache) -> None:
    (cache.folder / "views-0.1.partial").mkdir(parents=True)
    cache.views()
    assert [path.suffix for path in cache.folder.iterdir()] == [""]


def test_mixed_views_are_mixes_of_two_pictures(cache: Cache) -> None:
    data = random_faces()
    views = cache.views(data=data, augment=STILL, count=4, mixed=0.5)
    assert (views.weights[:, :2] == 1).all()
    assert (views.partners[:, :2] == np.arange(24)[:, None]).all()
    assert ((views.weights[:, 2:] >= 0.5) & (views.weights[:, 2:] < 1)).all()
    assert (views.partners[:, 2:] != np.arange(24)[:, None]).any()
    weights, partners = views.weights[..., None, None, None], views.partners
    pictures = data.pixels.astype(float)
    expected = weights * pictures[:, None] + (1 - weights) * pictures[partners]
    assert np.abs(views.crops.transpose(0, 1, 3, 4, 2) - expected).max() <= 0.51
    with torch.no_grad():
        (features,) = teacher().with_taps(torch.from_numpy(np.array(views.crops[:, 3])).float(), ["late"])[1]
    assert np.allclose(views.features[:, 3], features, rtol=2**-10, atol=1e-6)


def test_a_full_disk_is_refused_before_the_work(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(UserError, match=r"views need 0 MB, 1 MB are free; .* lower stage1\.cached_v"):
        cache.views()
    assert cache.computed == 0
    assert not list(cache.folder.iterdir())


def test_a_folder_that_cannot_be_written_is_named(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match=r"views: can't be written \(No space left on device\)"):
        cache.views()
    assert not list(cache.folder.iterdir())
    (cache.folder / "file").write_text("")
    with pytest.raises(UserError, match=r"can't be written \(Not a directory\)"):
        Cache(cache.folder / "file" / "views").views()


def test_features_too_large_for_half_precision_are_refused(cache: Cache) -> None:
    large = teacher()
    large.face_net.late.bias.data += 1e5
    with pytest.raises(StageStopped, match=r"expected at most 65504 .* half precision: set stage1\.cached_v"):
        cache.views(teacher=large)
    assert not list(cache.folder.iterdir())


@pytest.mark.parametrize("cached_views", [0, 2])
def test_features_that_are_not_finite_or_constant_are_refused(tmp_path: Path, cached_views: int) -> None:
    broken, dead = teacher(), teacher()
    broken.face_net.early.weight.data.fill_(float("nan"))
    dead.face_net.late.bias.data -= 1e3  # the ReLU then gives 0 everywhere
    setting = context(f"stage1.cached_views={cached_views}")
    with pytest.raises(StageStopped, match="features are not finite; look at its weights"):
        stages.fn2en(faces(), broken, setting, tmp_path)
    with pytest.raises(StageStopped, match=r"all 1024 units .* constant over .* another layer"):
        stages.fn2en(faces(), dead, setting, tmp_path)


def test_the_views_lie_in_the_folder_of_the_context_and_are_shared(tmp_path: Path) -> None:
    computed: list[int] = []
    shared = context(views_folder=tmp_path / "shared", progress=lambda done, total: computed.append(done))
    for training in ("one", "two"):
        stages.fn2en(faces(), teacher(), shared, tmp_path / training)
        assert not list((tmp_path / training).glob("views-*"))
    assert computed == [24]
    stages.fn2en(faces(), teacher(), context(), tmp_path / "three")
    assert len(list((tmp_path / "three").glob("views-*/*.npy"))) == len(FIELDS)
    (tmp_path / "three" / "views-0123.partial").mkdir()
    drop_views(tmp_path / "three")
    assert not list((tmp_path / "three").glob("views-*"))
    assert (tmp_path / "three" / "stage2.safetensors").is_file()


def test_vectors_are_distilled_as_maps_of_one_position(cache: Cache, tmp_path: Path) -> None:
    views = cache.views(tap="pooled")
    crops = torch.from_numpy(np.array(views.crops[:, 0])).float()
    with torch.no_grad():
        vectors = teacher().face_net(crops, ["pooled"])["pooled"]
    assert views.features.shape == (24, 2, 16, 1, 1)
    assert np.allclose(views.features[:, 0, :, 0, 0], vectors, rtol=2**-10, atol=1e-6)
    for cached_views in (0, 2):
        records: list[Any] = []
        settings = [f"stage1.cached_views={cached_views}", "stage1.epochs=40", "stage1.lr=0.003"]
        setting = context("face_net.tap=pooled", *settings, records=records)
        model = stages.fn2en(faces(), teacher(), setting, tmp_path / f"{cached_views}")
        r2 = [record.r2 for record in records if record.stage == "stage1"]
        assert r2[-1] > 0.15 > r2[0]
        assert model.net.bridge.out_chw == (16, 1, 1)


def test_the_pretrained_teacher_is_frozen_and_always_the_same() -> None:
    recipe = tiny.tiny_recipe("face_net.fine_tuned=false")
    first, second = (stages.pretrained_teacher(recipe, 3, CPU) for _ in range(2))
    assert face.weights_sha256(first) == face.weights_sha256(second)
    assert first.face_net.late.weight.equal(tiny.TinyFaceNet().late.weight)
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())
    assert first(torch.rand(2, 3, 32, 32) * 255).tolist() == [[0.0] * 3] * 2


class NoParameters(tiny.TinyFaceNet):
    """A face net without parameters, as an ONNX file is one."""

    def __init__(self) -> None:
        super().__init__()
        for layer in (self.early, self.late):
            for name, value in list(layer.named_parameters()):
                delattr(layer, name)
                layer.register_buffer(name, value.detach())


def test_a_face_net_without_parameters_is_a_pretrained_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face, "load", lambda name, weights: NoParameters())
    with pytest.raises(UserError, match="fine_tuned is true and tiny has nothing to train; set face_net"):
        stages.check(tiny.tiny_recipe())
    recipe = tiny.tiny_recipe("face_net.fine_tuned=false")
    stages.check(recipe)
    with pytest.raises(UserError, match="method 'fine-tune': tiny has nothing to train; leave this method"):
        stages.check(recipe, fine_tunes=True)
    net = stages.pretrained_teacher(recipe, 3, CPU)
    assert not list(net.face_net.parameters())
    for cached_views in (0, 1):
        setting = context("face_net.fine_tuned=false", f"stage1.cached_views={cached_views}")
        model = stages.fn2en(faces(), net, setting, tmp_path / f"{cached_views}")
        assert model(faces().stored(torch.arange(4)).float()[..., :32, :32]).shape == (4, 3)
