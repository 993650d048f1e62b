"""The estimator: pictures and files, labels, seeds, saving, and scikit-learn's tools and checks."""

from __future__ import annotations

import inspect
import io
import json
import pickle
import pickletools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import check_estimator

import facenet2expnet
import tiny
from facenet2expnet.crop import CropContract, Framing, resize_square
from facenet2expnet.deploy.estimator import ExpressionClassifier, class_names, stored_faces
from facenet2expnet.errors import UserError
from facenet2expnet.experiment import inputs
from facenet2expnet.predict.recognizer import Recognizer
from rows_as_pictures import RowClassifier

pytestmark = pytest.mark.usefixtures("tiny_face_net")

SMALL = ("expnet.width=0.05", "expnet.hidden=8", "scratch.epochs=1")
SUBJECTS = np.repeat(["ann", "bob", "cid", "dee"], 6)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No face is looked for in pictures without faces; one thread for nets this small."""
    monkeypatch.setattr(inputs, "estimate_framing", lambda *_: Framing("mtcnn", (0.5, 0.5), 1.0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(**changes: Any) -> ExpressionClassifier:
    """The smallest classifier."""
    given: dict[str, Any] = {"settings": SMALL, "method": "scratch", "random_state": 0, "device": "cpu"} | changes
    return ExpressionClassifier(given.pop("recipe", tiny.tiny_recipe()), **given)


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    """24 pictures of 40 px; the class of each shows in its colour."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 90, (24, 40, 40, 3), dtype=np.uint8)
    for number in range(24):
        pixels[number, ..., number % 3] += 120
    return pixels


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.array(tiny.CLASSES)[np.arange(24) % 3]


@pytest.fixture
def fitted(faces: np.ndarray, labels: np.ndarray) -> ExpressionClassifier:
    return make().fit(faces, labels)


def test_it_learns_and_predicts(faces: np.ndarray, labels: np.ndarray) -> None:
    settings = (*SMALL[:2], "scratch.epochs=8", "scratch.lr=0.005", "augment.brightness=0.0", "augment.erasing=0.0")
    classifier = make(settings=settings)
    assert classifier.fit(faces, labels) is classifier
    assert classifier.classes_.tolist() == ["anger", "happiness", "surprise"]
    assert classifier.n_features_in_ == 36 * 36 * 3
    assert classifier.score(faces, labels) > 0.9
    probabilities = classifier.predict_proba(faces)
    assert probabilities.shape == (24, 3)
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert (classifier.predict(faces) == classifier.classes_[probabilities.argmax(axis=1)]).all()


def test_the_seed_decides(faces: np.ndarray, labels: np.ndarray, fitted: ExpressionClassifier) -> None:
    expected = fitted.predict_proba(faces)
    assert np.array_equal(make().fit(faces, labels).predict_proba(faces), expected)
    assert not np.array_equal(make(random_state=1).fit(faces, labels).predict_proba(faces), expected)
    drawn = [make(random_state=np.random.RandomState(3)).fit(faces, labels) for _ in range(2)]
    assert (
        drawn[0].recognizer_.metadata["trained_on"]["seed"] == drawn[1].recognizer_.metadata["trained_on"]["seed"] > 3
    )


def test_files_and_arrays_give_the_same(
    faces: np.ndarray, labels: np.ndarray, fitted: ExpressionClassifier, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(24)]
    for path, pixels in zip(paths, faces, strict=True):
        Image.fromarray(pixels).save(path)
    expected = fitted.predict_proba(faces)
    for given in (paths, [str(path) for path in paths], pd.Series(map(str, paths)), np.array([str(p) for p in paths])):
        assert np.array_equal(fitted.predict_proba(given), expected)
    assert np.array_equal(make().fit(paths, list(labels)).predict_proba(faces), expected)
    mixed = [paths[0], faces[1], np.zeros((50, 70, 3), np.uint8)]
    assert np.array_equal(fitted.predict_proba(mixed)[:2], expected[:2])


@pytest.mark.parametrize(
    "values", [np.array([7, -1, 3]), np.array([0.5, 1.0, 2.0]), np.array([True, False, True]), ["b", "a", "ü"]]
)
def test_labels_of_any_kind_come_back(faces: np.ndarray, values: Any, tmp_path: Path) -> None:
    y = np.asarray(values)[np.arange(24) % 3]
    if y.dtype.kind == "f":
        y = y * 2  # scikit-learn takes floats that are no whole numbers for a regression
    classifier = make().fit(faces, y)
    assert classifier.classes_.tolist() == sorted(set(y.tolist()))
    assert set(classifier.predict(faces)) <= set(y.tolist())
    loaded = ExpressionClassifier.load(classifier.save(tmp_path))
    assert loaded.classes_.dtype == classifier.classes_.dtype
    assert (loaded.predict(faces) == classifier.predict(faces)).all()


def test_groups_are_the_subjects_of_the_validation_part(faces: np.ndarray, labels: np.ndarray) -> None:
    classifier = make(settings=(*SMALL, "calibrate=true", "val_fraction=0.25")).fit(faces, labels, groups=SUBJECTS)
    metadata = classifier.recognizer_.metadata
    assert metadata["calibration"]["pictures"] == 6  # one whole subject
    assert metadata["trained_on"]["pictures"] == 18
    one = np.repeat("ann", 24)
    with pytest.raises(UserError, match="a validation part needs at least two"):
        classifier.fit(faces, labels, groups=one)


def test_the_papers_method(faces: np.ndarray, labels: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("expnet.width=0.05", "expnet.hidden=8", "fine_tune.epochs=1", "stage1.epochs=1", "stage2.epochs=1")
    classifier = make(settings=settings, method="fn2en", verbose=True).fit(faces, labels)
    assert classifier.recognizer_.metadata["method"] == "fn2en"
    printed = capsys.readouterr().err
    assert "teacher's features: 24 of 24" in printed
    assert "fn2en, fold all, seed 0 (2 of 2): 2 of 2" in printed
    make().fit(faces, labels)
    assert capsys.readouterr().err == ""


class TestRefusals:
    @pytest.mark.parametrize(
        ("pictures", "message"),
        [
            (
                np.zeros((6, 10)),
                r"picture 0: expected pixels \(H, W, 3\) uint8 RGB or a file name, got ndarray \(10,\)",
            ),
            (np.zeros((6, 8, 8), np.uint8), r"got ndarray \(8, 8\) uint8; grey pictures are repeated"),
            (np.zeros((6, 8, 8, 3)), r"got ndarray \(8, 8, 3\) float64; .* pixels in 0\.\.1 are multiplied by 255"),
            (np.zeros((6, 8, 8, 4), np.uint8), r"got ndarray \(8, 8, 4\) uint8"),
            (np.zeros((6, 0, 8, 3), np.uint8), "expected one pixel or more"),
            (np.zeros((0, 8, 8, 3), np.uint8), r"got 0 sample\(s\)"),
            (["nowhere.png"] * 6, r"picture 0: nowhere\.png: was not found"),
            ("faces/", r"expected pictures \(N, H, W, 3\) uint8 or a list of file names, got 'faces/'"),
            (3, "or a list of file names, got 3"),
        ],
    )
    def test_what_is_no_picture(self, pictures: Any, message: str) -> None:
        with pytest.raises(UserError, match=message):
            make().fit(pictures, [0, 1, 0, 1, 0, 1])

    @pytest.mark.parametrize(
        ("y", "message"),
        [
            (None, "requires y to be passed, but the target y is None"),
            (np.zeros(24), "expected labels of 2 classes or more, got 1 class: 0"),
            (np.zeros(23), "2 classes"),
            (np.arange(23) % 2, "inconsistent numbers of samples"),
            (np.linspace(0, 1, 24), "Unknown label type: continuous"),
            ([float("nan")] * 24, "Input y contains NaN"),
            (["a", " a"] * 12, "label ' a': expected labels whose texts differ, with no blanks around them"),
            (["a", ""] * 12, "label '': expected labels whose texts differ"),
        ],
    )
    def test_labels(self, faces: np.ndarray, y: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make().fit(faces, y)

    def test_two_labels_with_one_text(self) -> None:
        with pytest.raises(UserError, match="label '1'"):
            class_names(np.array([1, "1"], dtype=object))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"recipe": "quik"}, "no recipe is called 'quik'"),
            ({"settings": ("stage2.epoch=3",)}, r"names no setting of the recipe; did you mean stage2\.epochs"),
            ({"method": "magic"}, "method is 'magic', expected one of scratch, fine-tune, fn2en"),
            ({"device": "tpu"}, "device is 'tpu'"),
            ({"settings": ("crop.detector=mtcnn",)}, "crop.detector is 'mtcnn', expected 'already-cropped'"),
            ({"settings": (*SMALL, "scratch.votes=true")}, r"scratch\.votes is true, expected"),
        ],
    )
    def test_parameters(self, faces: np.ndarray, labels: np.ndarray, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            make(**changes).fit(faces, labels)

    def test_groups_of_another_length(self, faces: np.ndarray, labels: np.ndarray) -> None:
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            make().fit(faces, labels, groups=["ann"])

    def test_before_it_is_fitted(self, faces: np.ndarray, tmp_path: Path) -> None:
        for use in (
            lambda one: one.predict(faces),
            lambda one: one.predict_proba(faces),
            lambda one: one.save(tmp_path),
        ):
            with pytest.raises(NotFittedError):
                use(make())


class TestSaving:
    def test_a_model_folder(self, faces: np.ndarray, fitted: ExpressionClassifier, tmp_path: Path) -> None:
        folder = fitted.save(tmp_path / "model")
        assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
        recognizer = Recognizer.load(folder, device="cpu")
        found = recognizer.predict(list(faces), faces="whole-image")
        expected = fitted.predict_proba(faces)
        assert np.allclose(found.probabilities, expected, atol=1e-6)
        loaded = ExpressionClassifier.load(folder, device="cpu")
        assert np.array_equal(loaded.predict_proba(faces), expected)
        params, own = loaded.get_params(), fitted.get_params()
        assert params.pop("recipe").name == own.pop("recipe").name == "quick"
        assert params | {"settings": SMALL} == own
        assert loaded.n_features_in_ == fitted.n_features_in_
        again = clone(loaded).fit(faces, np.array(tiny.CLASSES)[np.arange(24) % 3])
        assert np.array_equal(again.predict_proba(faces), expected)

    def test_a_named_recipe_is_kept_by_its_name(self, fitted: ExpressionClassifier, tmp_path: Path) -> None:
        fitted.recipe = "best"
        loaded = ExpressionClassifier.load(fitted.save(tmp_path))
        assert (loaded.recipe, loaded.settings) == ("best", SMALL)

    def test_any_model_can_be_loaded(self, saved: Path) -> None:
        loaded = ExpressionClassifier.load(saved)
        assert tuple(loaded.classes_) == tiny.CLASSES
        assert loaded.predict(np.zeros((2, 50, 50, 3), np.uint8)).shape == (2,)

    def test_a_changed_description_is_an_error_and_unknown_parameters_are_left_out(
        self, fitted: ExpressionClassifier, tmp_path: Path
    ) -> None:
        card = fitted.save(tmp_path) / "model.json"
        written = json.loads(card.read_text())
        own = written["estimator"]
        card.write_text(json.dumps(written | {"estimator": own | {"params": own["params"] | {"of_tomorrow": 1}}}))
        assert ExpressionClassifier.load(tmp_path).get_params().keys() == fitted.get_params().keys()
        for wrong, message in (
            (own | {"classes": own["classes"][:1]}, "has 1 labels, expected one for each of 3 classes"),
            (own | {"dtype": "cheese"}, "'estimator' in model.json can't be read"),
            ([], "'estimator' in model.json can't be read"),
        ):
            card.write_text(json.dumps(written | {"estimator": wrong}))
            with pytest.raises(UserError, match=message):
                ExpressionClassifier.load(tmp_path)

    @pytest.mark.parametrize("how", ["pickle", "joblib"])
    def test_pickles(self, faces: np.ndarray, fitted: ExpressionClassifier, how: str) -> None:
        buffer = io.BytesIO()
        pickle.dump(fitted, buffer) if how == "pickle" else joblib.dump(fitted, buffer)
        buffer.seek(0)
        loaded = pickle.load(buffer) if how == "pickle" else joblib.load(buffer)
        assert np.array_equal(loaded.predict_proba(faces), fitted.predict_proba(faces))
        assert loaded.get_params() == fitted.get_params()

    def test_the_weights_in_a_pickle_are_the_files_of_a_model_folder(self, fitted: ExpressionClassifier) -> None:
        content = pickle.dumps(fitted, protocol=4)
        strings = {argument for _, argument, _ in pickletools.genops(content) if isinstance(argument, str)}
        assert {"model.json", "model.safetensors"} <= strings
        assert not [name for name in strings if name.startswith("torch")]

    def test_one_that_is_not_fitted(self) -> None:
        assert pickle.loads(pickle.dumps(make())).get_params() == make().get_params()


class TestTools:
    def test_cross_validation_with_subjects(self, faces: np.ndarray, labels: np.ndarray) -> None:
        scores = cross_val_score(
            make(), faces, labels, groups=SUBJECTS, cv=GroupKFold(2), params={"groups": SUBJECTS}, error_score="raise"
        )
        assert scores.shape == (2,)
        assert ((scores >= 0) & (scores <= 1)).all()

    def test_metadata_routing(self, faces: np.ndarray, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
        seen, fit = [], ExpressionClassifier.fit

        def spy(self: Any, X: Any, y: Any, groups: Any = None) -> Any:
            seen.append(sorted(set(groups)))
            return fit(self, X, y, groups)

        monkeypatch.setattr(ExpressionClassifier, "fit", spy)
        with sklearn.config_context(enable_metadata_routing=True):
            classifier = make().set_fit_request(groups=True)
            cross_val_score(
                classifier, faces, labels, cv=GroupKFold(2), params={"groups": SUBJECTS}, error_score="raise"
            )
        assert [len(groups) for groups in seen] == [2, 2]
        assert sorted(seen[0] + seen[1]) == ["ann", "bob", "cid", "dee"]

    def test_files_in_cross_validation(self, faces: np.ndarray, labels: np.ndarray, tmp_path: Path) -> None:
        paths = [str(tmp_path / f"{number}.png") for number in range(24)]
        for path, pixels in zip(paths, faces, strict=True):
            Image.fromarray(pixels).save(path)
        by_file = cross_val_score(make(), paths, labels, cv=2, error_score="raise")
        assert by_file.tolist() == cross_val_score(make(), faces, labels, cv=2).tolist()

    def test_grid_search_over_a_setting(self, faces: np.ndarray, labels: np.ndarray) -> None:
        grid = {"settings": [(*SMALL, "scratch.lr=0.001"), (*SMALL, "scratch.lr=0.01")]}
        search = GridSearchCV(make(), grid, cv=2, error_score="raise").fit(faces, labels)
        assert search.best_params_["settings"] in grid["settings"]
        assert search.predict(faces).shape == (24,)
        assert search.best_estimator_.recognizer_.metadata["recipe"]["scratch"]["lr"] in (0.001, 0.01)

    def test_pipeline(self, faces: np.ndarray, labels: np.ndarray) -> None:
        pipeline = Pipeline([("cut", FunctionTransformer(cut_margin)), ("classify", make())])
        pipeline.fit(faces, labels, classify__groups=SUBJECTS)
        expected = make().fit(faces[:, 2:-2, 2:-2], labels, groups=SUBJECTS).predict_proba(faces[:, 2:-2, 2:-2])
        assert np.array_equal(pipeline.predict_proba(faces), expected)

    def test_clone_and_parameters(self, fitted: ExpressionClassifier) -> None:
        copy = clone(fitted)
        assert copy.get_params() == fitted.get_params()
        assert not hasattr(copy, "classes_")
        assert copy.set_params(random_state=5, settings=("stage2.epochs=1",)).random_state == 5
        assert set(inspect.signature(ExpressionClassifier).parameters) == set(copy.get_params())


def cut_margin(pictures: np.ndarray) -> np.ndarray:
    """Take two pixels off each side."""
    return pictures[:, 2:-2, 2:-2]


def test_stored_faces_are_those_of_the_training() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 61, 83, 3), dtype=np.uint8)
    found = stored_faces(pixels, CropContract(stored_px=36, crop_px=32))
    assert np.array_equal(found, np.stack([resize_square(one, 36) for one in pixels]))


def test_the_public_name() -> None:
    assert facenet2expnet.ExpressionClassifier is ExpressionClassifier


PARAMETER_CHECKS = (
    "check_estimator_cloneable", "check_estimator_repr", "check_estimator_tags_renamed", "check_valid_tag_types",
    "check_no_attributes_set_in_init", "check_mixin_order", "check_parameters_default_constructible",
    "check_get_params_invariance", "check_set_params", "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimators_unfitted",
)  # fmt: skip
"""Checks of scikit-learn that need no data."""


@pytest.mark.parametrize("name", PARAMETER_CHECKS)
def test_checks_of_scikit_learn_without_data(name: str) -> None:
    check: Callable[[str, Any], None] = getattr(estimator_checks, name)
    check("ExpressionClassifier", ExpressionClassifier())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_all_checks_of_scikit_learn_on_rows_as_pictures() -> None:
    """None is expected to fail; what is skipped is named."""
    learning = ("scratch.epochs=6", "scratch.lr=0.003", "scratch.batch_size=16")
    no_changes = ("flip=0.0", "brightness=0.0", "erasing=0.0", "rotation_deg=0.0", "zoom=0.0")
    recipe = tiny.tiny_recipe(*SMALL[:2], *learning, *(f"augment.{one}" for one in no_changes))
    classifier = RowClassifier(recipe, method="scratch", random_state=0, device="cpu")
    done = check_estimator(classifier, on_fail="raise", on_skip=None)
    assert {one["check_name"] for one in done if one["status"] != "passed"} <= {"check_array_api_input"}
    assert len(done) > 50
