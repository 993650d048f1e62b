"""The training as an estimator of scikit-learn."""

from __future__ import annotations

import numbers
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import assert_all_finite, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from facenet2expnet import recipes
from facenet2expnet.crop import CropContract
from facenet2expnet.data.dataset import Dataset
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.compare import train_on_all
from facenet2expnet.experiment.job import Progress
from facenet2expnet.faces.prepare import crop_files
from facenet2expnet.predict.model_folder import CARD, WEIGHTS, Model, load_model, locate_model, save_model
from facenet2expnet.predict.onnx_model import OnnxModel
from facenet2expnet.predict.recognizer import Recognizer
from facenet2expnet.recipe import Recipe

Pictures = npt.ArrayLike | Sequence[str | Path | np.ndarray]
"""Cut-out faces: an array (N, H, W, 3) uint8 RGB, or a list of file names and of arrays (H, W, 3) of any size."""

STATE = "model_files"
"""In a pickle: the files of the model folder, by name."""


class ExpressionClassifier(ClassifierMixin, BaseEstimator):
    """Train an expression network and classify cut-out faces with it, as scikit-learn's estimators do.

        classifier = ExpressionClassifier("quick", random_state=0).fit(crops, labels, groups=subjects)
        print(classifier.predict_proba(new_crops), classifier.classes_)

    It trains as `fn2en train --no-holdout` does; files of the training are in a temporary folder (TMPDIR moves it).

    Args:
        recipe: a recipe, a preset's name or a TOML file. Its crop has detector "already-cropped".
        settings: changes of the recipe, as in ("stage2.epochs=10",).
        method: "fn2en", "fine-tune" or "scratch".
        random_state: the seed of the training; an int gives the same network again on the same machine.
        device: "auto", "cpu", "cuda" or "mps".
        verbose: print the progress of the training to stderr.
    Attributes:
        classes_: (K,) the labels of y, sorted.
        n_features_in_: number of values of a picture as the network's crop is cut from it, stored_px * stored_px * 3.
            Pictures may have any size, so it is never compared.
        recognizer_: the trained `Recognizer`, which finds faces in photographs and videos too.
    """

    classes_: np.ndarray
    n_features_in_: int
    recognizer_: Recognizer

    def __init__(
        self,
        recipe: Recipe | str = "quick",
        *,
        settings: Sequence[str] = (),
        method: str = "fn2en",
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.recipe = recipe
        self.settings = settings
        self.method = method
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Pictures, y: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> Self:
        """Train a network.

        Args:
            X: see `Pictures`.
            y: (N,) class labels.
            groups: (N,) the subject of each picture, NaN or None where unknown. If the recipe needs a validation part,
                it consists of whole subjects.
        Raises:
            UserError: If a picture can't be read, there is only one class, or the recipe can't be used.
        """
        recipe = recipes.load(self.recipe) if isinstance(self.recipe, str) else self.recipe
        recipe = recipes.override(recipe, self.settings)
        faces = stored_faces(X, recipe.crop)
        classes, codes = _classes(y)
        check_consistent_length(faces, codes)
        names = class_names(classes)
        seed = self.random_state
        if not isinstance(seed, numbers.Integral):
            seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
        table = pd.DataFrame({"image": [f"{number}" for number in range(len(faces))], "label": np.array(names)[codes]})
        if groups is not None:
            check_consistent_length(faces, groups)
            table["subject"] = ["" if pd.isna(group) else str(group) for group in column_or_1d(groups)]
        dataset = Dataset(Manifest(table.astype(object), Path(), names, "arrays"), faces, recipe.crop, [])
        with tempfile.TemporaryDirectory(prefix="facenet2expnet-") as folder:
            model = train_on_all(
                dataset, recipe, Path(folder), method=self.method, seed=int(seed), device=self.device,
                progress=_print_progress() if self.verbose else None,
            )  # fmt: skip
        self.classes_, self.n_features_in_ = classes, faces[0].size
        self._use(model)
        return self

    def predict_proba(self, X: Pictures) -> np.ndarray:
        """Return the probabilities (N, K) float32 of `classes_`; rows sum to 1."""
        check_is_fitted(self)
        own = self.recognizer_
        return own.probabilities(stored_faces(X, own.contract))

    def predict(self, X: Pictures) -> np.ndarray:
        """Return the most probable label of each picture, (N,)."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]

    def save(self, folder: str | Path) -> Path:
        """Write a model folder, which `load`, `Recognizer.load` and all commands read, and return its path."""
        check_is_fitted(self)
        params = {name: getattr(self, name) for name in ("settings", "method", "device", "verbose")}
        params["recipe"] = self.recipe if isinstance(self.recipe, str) else None
        params["random_state"] = self.random_state if isinstance(self.random_state, numbers.Integral) else None
        params["settings"] = list(params["settings"])
        own = self.recognizer_
        about = {"params": params, "classes": self.classes_.tolist(), "dtype": self.classes_.dtype.str}
        assert not isinstance(own.model, OnnxModel)
        save_model(Model(own.model, own.classes, own.contract, own.metadata | {"estimator": about}), Path(folder))
        return Path(folder)

    @classmethod
    def load(cls, model: str | Path, *, device: str = "auto") -> Self:
        """Return a fitted classifier from a model folder, a run, or hf:owner/name.

        A model that `save` wrote has its labels and parameters again; of any other model the labels are its class
        names, and the parameters are recipe and method of its training. Parameters of another version are left out.

        Raises:
            UserError: If there is no model, or what `save` wrote of the classifier was changed.
        """
        found = load_model(locate_model(model))
        kept, classes = _saved(found, str(model))
        kept = {name: kept[name] for name in cls._get_param_names() if name in kept}
        params = {"method": found.metadata.get("method", "fn2en")} | kept | {"device": device}
        if params.get("recipe") is None:
            params["recipe"] = recipes.from_dict(found.metadata["recipe"]) if "recipe" in found.metadata else "quick"
            params["settings"] = ()
        classifier = cls(**params)
        classifier.classes_ = classes
        classifier.n_features_in_ = found.contract.stored_px**2 * 3
        classifier._use(found)
        return classifier

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "recognizer_" in state:
            del state["recognizer_"]
            with tempfile.TemporaryDirectory() as folder:
                self.save(folder)
                state[STATE] = {name: Path(folder, name).read_bytes() for name in (CARD, WEIGHTS)}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        files = state.pop(STATE, None)
        super().__setstate__(state)
        if files:
            with tempfile.TemporaryDirectory() as folder:
                for name, content in files.items():
                    Path(folder, name).write_bytes(content)
                self._use(load_model(Path(folder)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = tags.input_tags.string = True  # file names
        return tags

    def _use(self, model: Model) -> None:
        model.metadata.pop("estimator", None)
        self.recognizer_ = Recognizer(model, self.device)


def _saved(model: Model, name: str) -> tuple[dict[str, Any], np.ndarray]:
    """The parameters and labels that `save` wrote into a model's metadata; the class names where it did not.

    Raises:
        UserError: If they can't be read, or are not as many labels as classes.
    """
    about = model.metadata.pop("estimator", {})
    try:
        params = dict(about.get("params", {}))
        params["settings"] = tuple(params.get("settings", ()))
        labels = np.array(about.get("classes", model.classes), dtype=about.get("dtype"))
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise UserError(f"{name}: 'estimator' in {CARD} can't be read ({error}); save the classifier again") from None
    if labels.shape != (len(model.classes),):
        found = len(labels) if labels.ndim == 1 else f"an array {labels.shape} of"
        raise UserError(
            f"{name}: 'estimator' in {CARD} has {found} labels, expected one for each of {len(model.classes)} classes; "
            "save the classifier again"
        )
    return params, labels


def stored_faces(pictures: Pictures, contract: CropContract) -> np.ndarray:
    """Return cut-out faces as the crop contract stores them, (N, stored_px, stored_px, 3) uint8.

    Args:
        pictures: see `Pictures`.
        contract: with detector "already-cropped".
    Raises:
        UserError: If there is no picture, one can't be read, or the contract looks for faces.
    """
    if contract.detector != "already-cropped":
        raise UserError(
            f"crop.detector is '{contract.detector}', expected 'already-cropped': the estimator takes cut-out faces; "
            "cut them first with fn2en data prepare, or use facenet2expnet.train"
        )
    given = [_picture(number, picture) for number, picture in enumerate(_listed(pictures))]
    if not given:
        raise UserError("expected one picture or more, got 0 sample(s)")
    faces = np.empty((len(given), contract.stored_px, contract.stored_px, 3), np.uint8)
    for number, result in enumerate(crop_files(given, contract)):
        if result.crop is None:
            raise UserError(f"picture {number}: {given[number]}: {result.reason}")
        faces[number] = result.crop
    return faces


def _listed(pictures: Any) -> list[Any]:
    """The pictures one by one."""
    if isinstance(pictures, str | Path) or not hasattr(pictures, "__iter__"):
        raise UserError(f"expected pictures (N, H, W, 3) uint8 or a list of file names, got {pictures!r:.80}")
    return list(pictures.to_numpy() if isinstance(pictures, pd.Series) else pictures)


def _picture(number: int, picture: Any) -> Path | np.ndarray:
    """One picture as a path, or as checked pixels."""
    if isinstance(picture, str | Path):
        return Path(picture)
    kind = f"{type(picture).__name__} {getattr(picture, 'shape', '')} {getattr(picture, 'dtype', '')}".strip()
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3:
        if min(picture.shape) < 1:
            raise UserError(f"picture {number}: expected one pixel or more, got {kind}")
        return np.ascontiguousarray(picture)
    raise UserError(
        f"picture {number}: expected pixels (H, W, 3) uint8 RGB or a file name, got {kind}; grey pictures are repeated "
        "three times on a last axis, and pixels in 0..1 are multiplied by 255"
    )


def _classes(y: Any) -> tuple[np.ndarray, np.ndarray]:
    """The labels, sorted, and the number of each picture's label."""
    if y is None:
        raise UserError("ExpressionClassifier requires y to be passed, but the target y is None")
    labels = column_or_1d(y, warn=True)
    assert_all_finite(labels, input_name="y")
    check_classification_targets(labels)
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise UserError(f"expected labels of 2 classes or more, got 1 class: {', '.join(map(str, classes))}")
    return classes, codes


def class_names(classes: np.ndarray) -> tuple[str, ...]:
    """Return labels as the names of a model's classes.

    Raises:
        UserError: If two have one name, or a name is empty or has blanks around it.
    """
    names = tuple(str(name) for name in classes)
    wrong = [name for name in names if not name or name != name.strip() or names.count(name) > 1]
    if wrong:
        raise UserError(f"label '{wrong[0]}': expected labels whose texts differ, with no blanks around them")
    return names


def _print_progress() -> Progress:
    """A function that prints what is being done once for each tenth of it."""
    printed: set[tuple[str, int]] = set()

    def progress(what: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if (what, tenth) not in printed:
            printed.add((what, tenth))
            print(f"{what}: {done} of {total}", file=sys.stderr)

    return progress
