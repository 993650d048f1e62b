"""The face net as a teacher: run live in every step, or computed once on a finite set of views."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from facenet2expnet.errors import StageStopped, UserError
from facenet2expnet.nets.classifier import FaceClassifier
from facenet2expnet.nets.face import weights_sha256
from facenet2expnet.training.augment import Augment, centre_crop
from facenet2expnet.training.losses.statistics import check_features

BATCH = 64
LARGEST_HALF = 65_504.0

Progress = Callable[[int, int], None]
Note = Callable[[str], None]
Shapes = dict[str, tuple[tuple[int, ...], np.dtype]]


class TrainingPart:
    """The pictures that a training may see, with their class numbers.

    Args:
        pixels: (N, S, S, 3) uint8 RGB, in memory or memory-mapped.
        targets: (N,) class numbers, -1 for a picture without a label, which only the teacher's features use.
        classes: how many classes there are.
        device: where batches go.
        inner: pictures of the training part that no stage learns from; early stopping watches them.
        subjects: (N,) numbers of the persons, -1 for one who is unknown; None where nobody asks for them.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        targets: np.ndarray,
        classes: int,
        device: torch.device,
        inner: TrainingPart | None = None,
        subjects: np.ndarray | None = None,
    ) -> None:
        self.pixels = pixels
        self.inner = inner
        self.targets = torch.as_tensor(targets, dtype=torch.long, device=device)
        self.classes = classes
        self.device = device
        self.subjects = (
            None if subjects is None else torch.as_tensor(subjects, dtype=torch.long, device=device)
        )

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def labelled(self) -> Tensor:
        """Numbers of the pictures that have a label, on the CPU."""
        return torch.nonzero(self.targets >= 0)[:, 0].cpu()

    def stored(self, examples: Tensor) -> Tensor:
        """Stored faces of these numbers, (B, 3, S, S) uint8 on the device."""
        batch = torch.from_numpy(np.ascontiguousarray(self.pixels[examples.cpu().numpy()]))
        return batch.to(self.device).permute(0, 3, 1, 2)

    def batches(self) -> Iterator[Tensor]:
        """All stored faces in order."""
        for start in range(0, len(self), BATCH):
            yield self.stored(torch.arange(start, min(start + BATCH, len(self))))


@torch.no_grad()
def tapped_features(
    classifier: FaceClassifier, part: TrainingPart, tap: str, crop_px: int
) -> Iterator[Tensor]:
    """The tapped layer's output on every centre crop of the training part, batch by batch, (B, C, H, W).

    Vectors are maps of one position, here and in the views: (B, U, 1, 1).
    """
    classifier.eval()
    for stored in part.batches():
        yield classifier.with_taps(centre_crop(stored, crop_px), [tap])[1][0]


@dataclass(frozen=True, eq=False)
class Views:
    """What the teacher says of K augmented views of each of N training pictures.

    Attributes:
        crops: (N, K, 3, c, c) uint8, what both nets see.
        features: tapped layer -> its output, (N, K, C, H, W) half precision.
        scores: (N, K, classes) 32 bits, class scores before softmax.
        partners: (N, K) int64, the picture that a blended view was blended with; its own number where it was not.
        weights: (N, K) 32 bits, the first picture's weight in the blend, 1 where it is none.
        rows: where in N each picture of the training part stands; all of N where the views are of that part alone.
    """

    crops: np.ndarray
    features: Mapping[str, np.ndarray]
    scores: np.ndarray
    partners: np.ndarray
    weights: np.ndarray
    rows: np.ndarray

    def only(self, rows: np.ndarray) -> Views:
        """The views of some pictures, for a training part of these alone; nothing large is copied.

        Raises:
            ValueError: If one is blended with a picture that is not among them.
        """
        numbers = np.full(len(self.crops), -1)
        numbers[rows] = np.arange(len(rows))
        partners = numbers[self.partners]
        if (partners[rows] < 0).any():
            raise ValueError("expected views that are blended with pictures of the training part alone")
        return replace(self, partners=partners, rows=rows)

    def draw(self, examples: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """A random view of each of the examples: two index arrays into N and K."""
        views = torch.randint(self.crops.shape[1], (len(examples),))
        return self.rows[examples.cpu().numpy()], views.numpy()

    def batches(self, tap: str) -> Iterator[Tensor]:
        """All features of a layer, K views of some pictures at a time, (B, C, H, W) 32 bits."""
        features = self.features[tap]
        pictures = max(1, 256 // features.shape[1])
        for start in range(0, len(self.rows), pictures):
            block = np.asarray(features[self.rows[start : start + pictures]], np.float32)
            yield torch.from_numpy(block.reshape(-1, *block.shape[2:]))


def compute_views(
    classifier: FaceClassifier,
    part: TrainingPart,
    taps: Sequence[str],
    augment: Augment,
    count: int,
    folder: Path,
    *,
    blend: float = 0.0,
    seed: int,
    fabric: Fabric,
    progress: Progress | None = None,
    note: Note | None = None,
) -> Views:
    """Run the teacher once over `count` augmented views of every picture; memory-mapped files keep the answers.

    The files are named by what they depend on: the face net's weights, preprocessing and precision, the augmentation,
    the size of the crops, the pictures, how many views and blends, and the seed. Where all that is the same they are
    read again, otherwise made anew; so are files that are cut short or not of the shapes and types that are asked
    for. Numbers that were changed within such a file are not noticed. Every layer's features have a file of their own:
    where only that is missing, the teacher is shown the views that are there. One process at a time may write to a
    folder: what a killed one left there half written is removed.

    Args:
        classifier: the face net, frozen.
        part: the pictures; labels are not looked at.
        taps: the layers to keep.
        augment: makes a view.
        count: views a picture, K.
        folder: of the files.
        blend: share of the views that are a blend with another picture, weighted 0.5 to 1 for the first. A blend is
            one more face that the teacher can be asked about, since its features need no label.
        seed: of all that is drawn.
        fabric: device and precision.
        progress: told of the pictures done and how many there are.
        note: told in a sentence why files that are there had to be made anew.
    Raises:
        UserError: If the disk is full, or the folder or a file in it can't be written.
        StageStopped: If a feature is not finite or too large for half precision.
    """
    names = {tap: f"features-{hashlib.sha256(tap.encode()).hexdigest()[:8]}" for tap in taps}
    shapes: Shapes = {
        "crops": ((len(part), count, 3, augment.crop_px, augment.crop_px), np.dtype(np.uint8)),
        "scores": ((len(part), count, part.classes), np.dtype(np.float32)),
        "partners": ((len(part), count), np.dtype(np.int64)),
        "weights": ((len(part), count), np.dtype(np.float32)),
    }
    common = set(shapes)
    for name, shape in zip(names.values(), _tap_shapes(classifier, part, taps, augment.crop_px), strict=True):
        shapes[name] = ((len(part), count, *shape), np.dtype(np.float16))
    key = _key(classifier, part, augment, fabric, [count, blend, seed])
    paths = {name: folder / f"views-{name}-{key}.npy" for name in shapes}
    found = _opened(paths, shapes, note)
    if len(found) < len(paths):
        whole = common <= set(found)
        missing = [name for name in paths if name not in found] if whole else list(paths)
        stored = found["crops"] if whole else None
        with _Files(folder, {n: paths[n] for n in missing}, {n: shapes[n] for n in missing}) as files:
            new = {tap: files[name] for tap, name in names.items() if name in missing}
            _ask(classifier, part, augment, count, blend, seed, fabric, stored, files, new, progress)
        found = {name: np.load(path, mmap_mode="r") for name, path in paths.items()}
    features = {tap: found[name] for tap, name in names.items()}
    return Views(features=features, rows=np.arange(len(part)), **{name: found[name] for name in common})


def _opened(paths: dict[str, Path], shapes: Shapes, note: Note | None) -> dict[str, np.ndarray]:
    """Those of the files that are there, whole and of these shapes, memory-mapped.

    Raises:
        UserError: If there is a folder in the place of one.
    """
    found = {}
    for name, path in paths.items():
        if path.is_dir():
            raise UserError(f"{path}: expected a file of the teacher's views, found a folder; remove it")
        if not path.is_file():
            continue
        shape, kind = shapes[name]
        try:
            values = np.load(path, mmap_mode="r")
            fault = f"holds {values.shape} {values.dtype}, expected {shape} {kind}"
        except (OSError, ValueError, EOFError) as error:  # a file that is cut short, or not NumPy's
            values, fault = None, f"is cut short or damaged ({error})"
        if values is not None and values.shape == shape and values.dtype == kind:
            found[name] = values
        elif note:
            note(f"{path} {fault}; the teacher's views are computed anew.")
    return found


@torch.no_grad()
def _ask(
    classifier: FaceClassifier,
    part: TrainingPart,
    augment: Augment,
    count: int,
    blend: float,
    seed: int,
    fabric: Fabric,
    stored: np.ndarray | None,
    files: Mapping[str, np.ndarray],
    features: Mapping[str, np.ndarray],
    progress: Progress | None,
) -> None:
    """Show the teacher every view, drawn anew unless stored ones are given; fill in its scores and `features`."""
    classifier.eval()
    torch.manual_seed(seed)
    partners, weights = _blends(len(part), count, blend)
    if stored is None:
        files["partners"][:], files["weights"][:] = partners.numpy(), weights.numpy()
    for start in range(0, len(part), BATCH):
        stop = min(start + BATCH, len(part))
        for view in range(count):
            if stored is None:
                crops = _draw(
                    part, augment, start, stop, partners[start:stop, view], weights[start:stop, view]
                )
            else:
                crops = torch.tensor(stored[start:stop, view], device=part.device, dtype=torch.float32)
            with fabric.autocast():
                scores, found = classifier.with_taps(crops, list(features))
            for (tap, file), values in zip(features.items(), found, strict=True):
                check_features(values, start // BATCH + 1, None)
                if float(values.abs().max()) > LARGEST_HALF:
                    raise StageStopped(
                        f"layer '{tap}' gives {float(values.abs().max()):g}, expected at most "
                        f"{LARGEST_HALF:g} for the cache in half precision: set stage1.views=0"
                    )
                file[start:stop, view] = values.float().cpu().numpy()
            if stored is None:
                files["crops"][start:stop, view] = crops.to(torch.uint8).cpu().numpy()
                files["scores"][start:stop, view] = scores.float().cpu().numpy()
        if progress:
            progress(stop, len(part))


def _draw(
    part: TrainingPart, augment: Augment, start: int, stop: int, partners: Tensor, weights: Tensor
) -> Tensor:
    """One view of some pictures, blended with its partners where a weight is below 1; whole numbers in 0..255."""
    crops = augment(part.stored(torch.arange(start, stop)))
    if float(weights.min()) < 1:
        other = augment(part.stored(partners))
        crops = other.lerp(crops, weights.to(crops).view(-1, 1, 1, 1))
    return crops.round()


def _blends(pictures: int, count: int, share: float) -> tuple[Tensor, Tensor]:
    """Partners (N, K) and weights (N, K); the last views are the blended ones."""
    partners = torch.arange(pictures)[:, None].repeat(1, count)
    weights = torch.ones(pictures, count)
    blended = round(share * count)
    if blended:
        partners[:, -blended:] = torch.randint(pictures, (pictures, blended))
        weights[:, -blended:] = 0.5 + 0.5 * torch.rand(pictures, blended)
    return partners, weights


class _Files:
    """Memory-mapped files under temporary names, renamed when all is written."""

    def __init__(self, folder: Path, paths: dict[str, Path], shapes: Shapes) -> None:
        self.folder, self.paths, self.shapes = folder, paths, shapes
        self.maps: dict[str, np.memmap] = {}

    def _partial(self, name: str) -> Path:
        return self.paths[name].with_suffix(".partial")

    def __enter__(self) -> dict[str, np.memmap]:
        needed = sum(
            int(np.prod(shape, dtype=np.int64)) * kind.itemsize for shape, kind in self.shapes.values()
        )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob("views-*.partial"):
                left.unlink()
            _check_room(self.folder, needed)
            for name, (shape, kind) in self.shapes.items():
                self.maps[name] = np.lib.format.open_memmap(self._partial(name), "w+", kind, shape)
                _reserve(self._partial(name))
        except OSError as error:
            self._remove()
            raise UserError(f"{error.filename or self.folder}: can't be written ({error.strerror})") from None
        return self.maps

    def _remove(self) -> None:
        for name in self.paths:
            with suppress(OSError):  # what brought us here is what the user has to know
                self._partial(name).unlink()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._remove()
            return
        for name, values in self.maps.items():
            values.flush()
            self._partial(name).replace(self.paths[name])


def _reserve(path: Path) -> None:
    """Take the file's room on the disk now: writing to a mapped hole on a full disk would kill the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + 50_000_000:
        raise UserError(
            f"{folder}: the teacher's views need {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free; make room, "
            "or lower stage1.views (0 runs the teacher in every step)"
        )


@torch.no_grad()
def _tap_shapes(
    classifier: FaceClassifier, part: TrainingPart, taps: Sequence[str], crop_px: int
) -> list[tuple[int, ...]]:
    classifier.eval()
    found = classifier.with_taps(centre_crop(part.stored(torch.arange(1)), crop_px), taps)[1]
    return [tuple(features.shape[1:]) for features in found]


def _key(
    classifier: FaceClassifier, part: TrainingPart, augment: Augment, fabric: Fabric, numbers: list[float]
) -> str:
    pictures = hashlib.sha256()
    for start in range(0, len(part), 1024):
        pictures.update(np.ascontiguousarray(part.pixels[start : start + 1024]).tobytes())
    info = classifier.face_net.info
    preprocessing = [info.input_px, info.mean_rgb, info.scale, info.colour]
    facts = [weights_sha256(classifier), preprocessing, repr(augment.recipe), augment.crop_px, numbers]
    facts += [_precision(fabric), pictures.hexdigest()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _precision(fabric: Fabric) -> str:
    """The numbers that the teacher computes with, as in "torch.bfloat16"."""
    kind = fabric.device.type
    with fabric.autocast():
        return str(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32)
