"""face_net.tap = "auto", and the face net as it came: what a run does with them, and what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import tiny
from facenet2expnet.analysis.inputs import PRE_TRAINED, load_inputs
from facenet2expnet.errors import UserError
from facenet2expnet.experiment import crossval
from facenet2expnet.experiment.job import Cut, plan
from facenet2expnet.experiment.reporter import Reporter
from facenet2expnet.experiment.run import Machine, compare, train
from facenet2expnet.experiment.tap import kept_tap, recommended_tap
from facenet2expnet.nets.classifier import FaceClassifier
from facenet2expnet.predict.model_folder import load_model
from facenet2expnet.training import teacher
from facenet2expnet.training.teacher import TrainingPart

pytestmark = pytest.mark.usefixtures("tiny_face_net")
CPU = Machine("cpu", 1)
ROUGH = ("fine_tune.lr=0.05", "fine_tune.epochs=4")  # enough that fine-tuning makes expression neurons


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_faces(tmp_path_factory.mktemp("tap") / "faces")


class Ears(Reporter):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.views_made = 0

    def note(self, text: str) -> None:
        self.notes.append(text)

    def views(self, done: int, total: int) -> None:
        self.views_made += done == total


def coloured_part(each: int = 12) -> TrainingPart:
    """A class shows in the tint of its pictures, and hardly against their brightness."""
    rng = np.random.default_rng(2)
    targets = np.arange(3 * each) % 3
    pixels = rng.integers(0, 20, (len(targets), 36, 36, 3), dtype=np.uint8)
    pixels += rng.integers(0, 180, (len(targets), 1, 1, 1), dtype=np.uint8)
    pixels[np.arange(len(targets)), ..., targets] += 40
    return TrainingPart(pixels, targets, 3, torch.device("cpu"))


def tuned() -> FaceClassifier:
    """The tiny net as if fine-tuning had made colour detectors of half its early layer, and had killed the late one."""
    classifier = FaceClassifier(tiny.TinyFaceNet(), 3, head_norm=True, head_dropout=0.0).eval()
    net = classifier.face_net
    with torch.no_grad():
        for unit in range(4):
            net.early.weight[unit] = 0
            net.early.weight[unit, unit % 3] = 1
            net.early.weight[unit, (unit + 1) % 3] = -1
        net.late.weight.zero_()
    return classifier


def test_the_layer_in_which_fine_tuning_made_neurons_is_taken_and_its_reason_kept(tmp_path: Path) -> None:
    told: list[str] = []
    recipe = tiny.tiny_recipe("face_net.tap=auto")
    assert kept_tap(tmp_path) == ""
    tap = recommended_tap(coloured_part(), tuned(), recipe, tmp_path, told.append)
    assert tap == kept_tap(tmp_path) == "early"
    facts = json.loads((tmp_path / "tap.json").read_text())
    assert "fine-tuning made the most low-entropy neurons here" in facts["reason"]
    rows = {row["layer"]: row for row in facts["layers"]}
    assert set(rows) == {"early", "late", "pooled"}
    assert rows["early"]["les_change"] > 0 >= rows["late"]["les_change"]
    assert facts["pictures"] == 36
    (note,) = told
    assert note.startswith(
        "Layer to transfer, chosen on 36 pictures of the training part: early: of the layers"
    )


def test_without_fine_tuning_one_network_decides(tmp_path: Path) -> None:
    recipe = tiny.tiny_recipe("face_net.tap=auto", "face_net.fine_tuned=false")
    tap = recommended_tap(coloured_part(), None, recipe, tmp_path, lambda _: None)
    facts = json.loads((tmp_path / "tap.json").read_text())
    shares = {row["layer"]: row["les_share"] for row in facts["layers"] if row["maps"]}
    assert tap == max(shares, key=lambda name: shares[name])
    assert "largest share of low-entropy neurons" in facts["reason"]
    assert "Give the network" not in facts["reason"]


def test_a_class_without_a_picture_in_the_training_part_has_no_say(tmp_path: Path) -> None:
    part = coloured_part()
    whole = recommended_tap(part, tuned(), tiny.tiny_recipe(), tmp_path / "a", lambda _: None)
    part = TrainingPart(part.pixels, np.array([0, 2, 3])[part.targets.numpy()], 4, part.device)
    assert recommended_tap(part, tuned(), tiny.tiny_recipe(), tmp_path / "b", lambda _: None) == whole
    first, second = (json.loads((tmp_path / name / "tap.json").read_text()) for name in "ab")
    assert first == second


def test_where_no_layer_can_be_recommended_the_default_is_taken_and_said_so(tmp_path: Path) -> None:
    untouched = FaceClassifier(tiny.TinyFaceNet(), 3, head_norm=True, head_dropout=0.0).eval()
    told: list[str] = []
    assert recommended_tap(coloured_part(), untouched, tiny.tiny_recipe(), tmp_path, told.append) == "late"
    (note,) = told
    assert "in no layer with maps, so none can be recommended. The default of tiny, late, is taken." in note
    with pytest.raises(UserError, match="the training part has 3 pictures, expected more than 5"):
        recommended_tap(coloured_part(each=1), untouched, tiny.tiny_recipe(), tmp_path, lambda _: None)


def test_a_run_resolves_auto_before_the_baseline_from_scratch_and_says_so(
    faces: Path, tmp_path: Path
) -> None:
    ears = Ears()
    recipe = tiny.tiny_recipe("face_net.tap=auto", *ROUGH)
    run = compare(
        faces, recipe=recipe, out=tmp_path / "run", folds=2, first_folds=1, machine=CPU, reporter=ears
    )
    (fold,) = [path.parent.parent for path in run.glob("*/fine-tune/tap.json")]
    facts = json.loads((fold / "fine-tune" / "tap.json").read_text())
    assert facts["pictures"] == 12
    chosen = [note for note in ears.notes if note.startswith("Layer to transfer")]
    assert chosen == [f"Layer to transfer, chosen on 12 pictures of the training part: {facts['reason']}"]
    assert chosen[0] in (run / "log.txt").read_text()
    shape = list(tiny.TinyFaceNet.info.taps[facts["tap"]])
    for method in ("scratch", "fn2en"):
        model = load_model(fold / method / "model")
        assert model.facts["tap"] == facts["tap"]
        assert list(model.module.net.arguments["bridge_chw"]) == shape
    assert "tap" not in load_model(fold / "fine-tune" / "model").facts
    assert load_inputs(run).tap == facts["tap"]
    fixed = tiny.tiny_recipe(f"face_net.tap={facts['tap']}", *ROUGH)
    named = compare(faces, recipe=fixed, out=tmp_path / "named", folds=2, first_folds=1, machine=CPU)
    first, second = (pd.read_parquet(path / "predictions.parquet") for path in (run, named))
    pd.testing.assert_frame_equal(first, second)


def test_a_face_net_as_it_came_teaches_all_folds_from_one_cache(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = teacher.Views.only

    def only(self: teacher.Views, rows: np.ndarray) -> teacher.Views:
        seen.append(len(rows))
        assert len(self.crops) == 24
        return original(self, rows)

    monkeypatch.setattr(teacher.Views, "only", only)
    ears = Ears()
    run = compare(
        faces, recipe=tiny.tiny_recipe("face_net.fine_tuned=false"), out=tmp_path / "run", folds=2, seeds=[0, 1],
        methods=["fn2en"], machine=CPU, reporter=ears,
    )  # fmt: skip
    assert seen == [12] * 4
    assert ears.views_made == 1
    predictions = pd.read_parquet(run / "predictions.parquet")
    assert set(predictions["method"]) == {"fn2en"}
    assert len(predictions) == 48
    assert not (run / "views").exists()
    assert not list(run.rglob("views-*"))
    assert not list(run.rglob("fine_tune.safetensors"))
    case = load_inputs(run)
    assert case.teacher == PRE_TRAINED
    assert case.net(case.teacher) is not None


def test_training_alone_makes_the_views_of_its_own_pictures_only(faces: Path, tmp_path: Path) -> None:
    recipe = tiny.tiny_recipe("face_net.fine_tuned=false", "face_net.tap=auto")
    run = train(faces, recipe=recipe, out=tmp_path / "run", machine=CPU)
    (record,) = run.glob("*/face-net/tap.json")
    assert load_model(run).facts["tap"] == json.loads(record.read_text())["tap"]


def test_what_is_planned_for_a_face_net_as_it_came(tmp_path: Path) -> None:
    cuts = [Cut("a", np.array([0, 1, 4]), np.array([2])), Cut("b", np.array([2, 4]), np.array([0]))]

    def planned(*settings: str) -> list[crossval.Job]:
        return plan(cuts, ["fn2en"], [0], tiny.tiny_recipe(*settings), tmp_path)

    tuned_jobs = planned()
    assert [job.training.method for job in tuned_jobs] == ["fine-tune", "fn2en"] * 2
    assert all(job.views_folder is None and job.viewed is None for job in tuned_jobs)
    jobs = planned("face_net.fine_tuned=false")
    assert [job.training.method for job in jobs] == ["fn2en"] * 2
    assert all(job.views_folder == tmp_path / "views" for job in jobs)
    assert [list(job.viewed) for job in jobs if job.viewed is not None] == [[0, 1, 2, 4]] * 2
    for own in ("stage1.blend=0.5", "stage1.views=0"):
        assert all(job.viewed is None for job in planned("face_net.fine_tuned=false", own))


def test_unlabelled_pictures_share_the_cache_and_blends_do_not(faces: Path, tmp_path: Path) -> None:
    table = pd.DataFrame(
        [(str(path), path.parent.name, f"S{number % 4}") for number, path in enumerate(sorted(faces.rglob("*.png")))],
        columns=["image", "label", "subject"],
    )  # fmt: skip
    table.loc[:3, "label"] = ""
    table.to_csv(tmp_path / "faces.csv", index=False)
    common = ("face_net.fine_tuned=false", "stage1.unlabelled=true")
    for name, more, made in (("shared", (), 1), ("blended", ("stage1.blend=0.5",), 2)):
        ears = Ears()
        run = compare(
            tmp_path / "faces.csv", recipe=tiny.tiny_recipe(*common, *more), out=tmp_path / name, folds=2,
            methods=["fn2en"], machine=CPU, reporter=ears,
        )  # fmt: skip
        assert ears.views_made == made
        assert len(pd.read_parquet(run / "predictions.parquet")) == 20
        assert not list(run.rglob("views-*"))
