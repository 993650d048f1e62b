"""The pictures of a training, and the face net as a teacher: run in every step, or computed once on cached views."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facenet2expnet.crop import centre_crop
from facenet2expnet.data.mapped import read_rows
from facenet2expnet.device import autocast, to_device
from facenet2expnet.errors import StageStopped, UserError
from facenet2expnet.nets.classifier import Teacher
from facenet2expnet.nets.face import weights_sha256
from facenet2expnet.training.augment import Augment
from facenet2expnet.training.statistics import check_finite

BATCH = 64
LARGEST_HALF = 65_504.0
SHARE_OF_MEMORY = 0.25
"""A set of pictures lies on a CUDA device if it takes at most this share of the memory that is free there."""

log = logging.getLogger(__name__)


class TrainingSet:
    """The pictures that a training may see, with their class numbers.

    Pixels are read a batch at a time. Only a CUDA device with room for all of them gets them once.

    Args:
        pixels: (N, S, S, 3) uint8 RGB of the whole dataset, in memory or memory-mapped; it is not copied.
        rows: (M,) the rows of it that belong to this set.
        targets: (M,) class numbers, -1 for a picture without a label, which only the teacher's features use.
        classes: how many classes there are.
        device: where batches go.
        validation: pictures that no stage learns from; early stopping watches them.
        votes: (M, classes) shares of the raters' votes, each row's sum 1 or, without votes, 0; None if there are none.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        rows: np.ndarray,
        targets: np.ndarray,
        classes: int,
        device: torch.device,
        validation: TrainingSet | None = None,
        votes: np.ndarray | None = None,
    ) -> None:
        self.pixels, self.rows = pixels, rows
        self.targets = torch.as_tensor(targets, dtype=torch.long, device=device)
        self.votes = None if votes is None else torch.as_tensor(votes, dtype=torch.float32, device=device)
        self.classes = classes
        self.device = device
        self.validation = validation

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labelled(self) -> Tensor:
        """Numbers of the pictures that have a label, on the CPU."""
        return torch.nonzero(self.targets >= 0)[:, 0].cpu()

    def coloured(self, enough: int) -> int:
        """Count the pictures that have colour, R, G and B not being equal everywhere; stop when there are enough."""
        count = 0
        for batch in map(self.stored, torch.arange(len(self)).split(BATCH)):
            count += int((batch[:, :2] != batch[:, 1:]).flatten(1).any(1).sum())
            if count >= enough:
                break
        return count

    def stored(self, examples: Tensor) -> Tensor:
        """Return the stored faces of these numbers, (B, 3, S, S) uint8 on the device."""
        if self._resident is not None:
            return self._resident[to_device(examples, self.device)].permute(0, 3, 1, 2)
        return to_device(self._read(self.rows[examples.cpu().numpy()]), self.device).permute(0, 3, 1, 2)

    def centre_crops(self, crop_px: int) -> Iterator[Tensor]:
        """Return the centre crops of all pictures in order, (B, 3, crop_px, crop_px) in 0..255."""
        for start in range(0, len(self), BATCH):
            numbers = torch.arange(start, min(start + BATCH, len(self)))
            yield centre_crop(self.stored(numbers), crop_px).float()

    @cached_property
    def _resident(self) -> Tensor | None:
        """All stored faces on the device, (M, S, S, 3) uint8; None if they stay where they are."""
        shape = (len(self), *self.pixels.shape[1:])
        if not _fits(math.prod(shape), self.device):
            return None
        faces = torch.empty(shape, dtype=torch.uint8, device=self.device)
        for start in range(0, len(self), 1024):
            rows = self.rows[start : start + 1024]
            faces[start : start + len(rows)] = self._read(rows).to(self.device)
        return faces

    def _read(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(read_rows(self.pixels, rows))

    def pixels_sha256(self) -> str:
        """Return a hash of all stored faces in order."""
        digest = hashlib.sha256()
        for start in range(0, len(self), 1024):
            digest.update(read_rows(self.pixels, self.rows[start : start + 1024]).tobytes())
        return digest.hexdigest()


def _fits(size: int, device: torch.device) -> bool:
    """Whether so many bytes can lie on the device for a whole training; other devices than CUDA's read batches."""
    return device.type == "cuda" and size <= SHARE_OF_MEMORY * torch.cuda.mem_get_info(device)[0]


@torch.no_grad()
def tapped_features(teacher: Teacher, data: TrainingSet, tap: str, crop_px: int) -> Iterator[Tensor]:
    """Return the tapped layer's output on every centre crop, batch by batch, (B, C, H, W); vectors are (B, U, 1, 1)."""
    teacher.eval()
    for crops in data.centre_crops(crop_px):
        yield teacher.with_taps(crops, [tap])[1][0]


@dataclass(frozen=True, eq=False)
class CachedViews:
    """What the teacher gives for K augmented views of each of N training pictures.

    Attributes:
        crops: (N, K, 3, c, c) uint8, what both nets see.
        features: the tapped layer's output, (N, K, C, H, W) half precision; (N, K, 0) if they were not kept.
        scores: (N, K, classes) 32 bits, class scores before softmax.
        partners: (N, K) int64, the picture that a view was mixed with; its own number if it was not.
        weights: (N, K) 32 bits, the first picture's weight in the mix, 1 if there is none.
    """

    crops: np.ndarray
    features: np.ndarray
    scores: np.ndarray
    partners: np.ndarray
    weights: np.ndarray

    def draw(self, examples: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Draw a view of each of the examples: two index arrays into N and K."""
        views = torch.randint(self.crops.shape[1], (len(examples),))
        return examples.cpu().numpy(), views.numpy()

    def read(self, index: tuple[np.ndarray, np.ndarray], device: torch.device, *fields: str) -> list[Tensor]:
        """Return these fields of drawn views, as they are kept, on a device."""
        return [to_device(torch.from_numpy(read_rows(getattr(self, field), *index)), device) for field in fields]

    def batches(self) -> Iterator[Tensor]:
        """Return all features, the views of some pictures at a time, (B, C, H, W) 32 bits."""
        pictures = max(1, 256 // self.features.shape[1])
        for start in range(0, len(self.features), pictures):
            block = np.asarray(self.features[start : start + pictures], np.float32)
            yield torch.from_numpy(block.reshape(-1, *block.shape[2:]))


@torch.no_grad()
def cache_views(
    teacher: Teacher,
    data: TrainingSet,
    tap: str,
    augment: Augment,
    count: int,
    folder: Path,
    *,
    mixed: float = 0.0,
    keep_features: bool = True,
    seed: int,
    precision: str = "32-true",
    progress: Callable[[int, int], None] | None = None,
) -> CachedViews:
    """Run the teacher once on `count` augmented views of every picture; memory-mapped files keep its answers.

    They lie in `folder/views-HASH`, named by all that they depend on: weights, preprocessing, tap, precision,
    augmentation, pictures, number of views and mixes, and seed. A folder of that name is read again.

    Args:
        teacher: the face net, frozen.
        data: the pictures; labels are not used.
        tap: the layer to keep.
        augment: makes a view.
        count: views a picture, K.
        folder: of the files.
        mixed: share of the views that mix in another picture, weighted 0.5 to 1 for the first. The teacher's features
            need no label, so a mix is one more face to learn from.
        keep_features: keep the tapped features too, not only the class scores.
        seed: of all random draws.
        precision: of the teacher's forward passes.
        progress: called with the pictures done and in all.
    Raises:
        UserError: If the disk is full, or the folder can't be written.
        StageStopped: If a feature is not finite or too large for half precision.
    """
    teacher.eval()
    crop_px = augment.crop_px
    features = teacher.with_taps(centre_crop(data.stored(torch.arange(1)), crop_px).float(), [tap])[1][0]
    shapes: dict[str, tuple[tuple[int, ...], type[Any]]] = {
        "crops": ((len(data), count, 3, crop_px, crop_px), np.uint8),
        "features": ((len(data), count, *(features.shape[1:] if keep_features else (0,))), np.float16),
        "scores": ((len(data), count, data.classes), np.float32),
        "partners": ((len(data), count), np.int64),
        "weights": ((len(data), count), np.float32),
    }
    info = teacher.face_net.info
    preprocessing = [info.input_px, info.mean_rgb, info.scale, info.colour]
    key = [weights_sha256(teacher), preprocessing, tap, precision, repr(augment.recipe), crop_px]
    key += [data.pixels_sha256(), count, mixed, keep_features, seed]
    views = folder / f"views-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}"
    if views.is_dir():
        try:
            found = {name: np.load(views / f"{name}.npy", mmap_mode="r") for name in shapes}
            if all((found[name].shape, found[name].dtype) == shape for name, shape in shapes.items()):
                return CachedViews(**found)
        except (OSError, ValueError, EOFError):
            pass
        log.warning("%s is damaged; the teacher's views are computed again.", views)
        shutil.rmtree(views)
    for stale in folder.glob("views-*.partial"):  # of a process that was killed
        shutil.rmtree(stale, ignore_errors=True)
    partial = folder / f"{views.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        files = _create_files(partial, shapes)
        _fill(teacher, data, tap, augment, files, mixed, seed, precision, progress)
        for values in files.values():
            values.flush()
        partial.rename(views)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: can't be written ({error.strerror})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return CachedViews(**{name: np.load(views / f"{name}.npy", mmap_mode="r") for name in shapes})


def drop_views(folder: Path) -> None:
    """Delete the cached views in a folder, whole and partial: they serve one training and take much room."""
    for views in folder.glob("views-*"):
        shutil.rmtree(views, ignore_errors=True)


def _fill(
    teacher: Teacher,
    data: TrainingSet,
    tap: str,
    augment: Augment,
    files: dict[str, np.memmap],
    mixed: float,
    seed: int,
    precision: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Draw the views and write what the teacher gives for them."""
    torch.manual_seed(seed)
    count = files["crops"].shape[1]
    partners = torch.arange(len(data))[:, None].repeat(1, count)
    weights = torch.ones(len(data), count)
    if last := round(mixed * count):  # the last views are the mixed ones
        partners[:, -last:] = torch.randint(len(data), (len(data), last))
        weights[:, -last:] = 0.5 + 0.5 * torch.rand(len(data), last)
    files["partners"][:], files["weights"][:] = partners.numpy(), weights.numpy()
    for start in range(0, len(data), BATCH):
        stop = min(start + BATCH, len(data))
        for view in range(count):
            crops = augment(data.stored(torch.arange(start, stop)))
            weight = weights[start:stop, view]
            if float(weight.min()) < 1:
                other = augment(data.stored(partners[start:stop, view]))
                crops = other.lerp(crops, weight.to(crops).view(-1, 1, 1, 1))
            crops = crops.round()
            with autocast(data.device, precision):
                scores, (features,) = teacher.with_taps(crops, [tap])
            check_finite(features, start // BATCH + 1)
            if files["features"].size and (largest := float(features.abs().max())) > LARGEST_HALF:
                raise StageStopped(
                    f"layer '{tap}' gives {largest:g}, expected at most {LARGEST_HALF:g} for the cache in half "
                    "precision: set stage1.cached_views=0"
                )
            files["crops"][start:stop, view] = crops.to(torch.uint8).cpu().numpy()
            if files["features"].size:
                files["features"][start:stop, view] = features.float().cpu().numpy()
            files["scores"][start:stop, view] = scores.float().cpu().numpy()
        if progress:
            progress(stop, len(data))


def _create_files(folder: Path, shapes: dict[str, tuple[tuple[int, ...], type[Any]]]) -> dict[str, np.memmap]:
    """Create the files at full size: writing to a mapped hole on a full disk would kill the process."""
    needed = sum(int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize for shape, kind in shapes.values())
    folder.mkdir(parents=True)
    free = shutil.disk_usage(folder).free
    if free < needed + 50_000_000:
        raise UserError(
            f"{folder.parent}: the teacher's views need {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free; make "
            "room, or lower stage1.cached_views (0 runs the teacher in every step)"
        )
    files: dict[str, np.memmap] = {}
    for name, (shape, kind) in shapes.items():
        path = folder / f"{name}.npy"
        files[name] = np.lib.format.open_memmap(path, "w+", kind, shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return files
