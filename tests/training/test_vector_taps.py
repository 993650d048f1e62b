"""A layer that gives vectors is transferred as maps of one position: trained live and cached, kept, looked into."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric
from typer.testing import CliRunner

import facenet2expnet
import tiny
from facenet2expnet.cli.analyse import app
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.run import Machine, compare
from facenet2expnet.nets.classifier import FaceClassifier
from facenet2expnet.predict.model_folder import load_model
from facenet2expnet.training import stages
from facenet2expnet.training.augment import Augment
from facenet2expnet.training.loop import EpochRecord
from facenet2expnet.training.losses import REGISTRY, build_sum
from facenet2expnet.training.stages import Setting
from facenet2expnet.training.teacher import TrainingPart, compute_views, tapped_features

pytestmark = pytest.mark.usefixtures("tiny_face_net")

FABRIC = Fabric(accelerator="cpu", devices=1)
CPU = torch.device("cpu")


def faces(count: int, seed: int = 1, inner: TrainingPart | None = None) -> TrainingPart:
    """Pictures whose class shows in their mean colour."""
    pixels = np.random.default_rng(seed).integers(0, 90, (count, 36, 36, 3), dtype=np.uint8)
    targets = np.arange(count) % 3
    pixels[np.arange(count), ..., targets] += 120
    return TrainingPart(pixels, targets, 3, CPU, inner)


@pytest.fixture
def part() -> TrainingPart:
    return faces(24)


@pytest.fixture
def teacher() -> FaceClassifier:
    return (
        FaceClassifier(tiny.TinyFaceNet(), 3, head_norm=True, head_dropout=0.5).eval().requires_grad_(False)
    )


def setting(*settings: str, told: list[EpochRecord] | None = None) -> Setting:
    return Setting(tiny.tiny_recipe(*settings), 0, FABRIC, None if told is None else told.append)


def test_vectors_are_maps_of_one_position_in_statistics_and_views(
    part: TrainingPart, teacher: FaceClassifier, tmp_path: Path
) -> None:
    crops = part.stored(torch.arange(24)).float()
    vectors = teacher.face_net(crops, ["pooled"])["pooled"]
    assert vectors.shape == (24, 16)
    late, pooled = teacher.with_taps(crops, ["late", "pooled"])[1]
    assert torch.equal(pooled[:, :, 0, 0], vectors)
    assert late.shape == (24, 16, 8, 8)
    assert [batch.shape for batch in tapped_features(teacher, part, "pooled", 32)] == [(24, 16, 1, 1)]
    augment = Augment(tiny.tiny_recipe().augment, 32)
    views = compute_views(teacher, part, ["pooled", "late"], augment, 2, tmp_path, seed=0, fabric=FABRIC)
    assert views.features["pooled"].shape == (24, 2, 16, 1, 1)
    assert sum(len(batch) for batch in views.batches("pooled")) == 48
    seen = teacher.face_net(torch.from_numpy(np.array(views.crops[5])).float(), ["pooled"])["pooled"]
    assert np.allclose(views.features["pooled"][5, :, :, 0, 0], seen.numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("tap", ["pooled", "pooled + early", "late + pooled"])
def test_a_vector_is_learned_alone_and_beside_maps(
    part: TrainingPart, teacher: FaceClassifier, tmp_path: Path, tap: str, views: int
) -> None:
    told: list[EpochRecord] = []
    long = setting(
        f"face_net.tap={tap}", f"stage1.views={views}", "stage1.epochs=40", "stage1.lr=0.003",
        "stage2.regress=0.1", "stage2.standardised_input=false", told=told,
    )  # fmt: skip
    model = stages.fn2en(part, teacher, long, tmp_path)
    r2 = [record.r2 or 0.0 for record in told if record.stage == "stage1"]
    assert r2[-1] > 0.15 > r2[0]
    first = tap.split(" ")[0]
    crops = part.stored(torch.arange(24)).float()
    expected = teacher.with_taps(crops, [first])[1][0]
    assert model.features(crops).shape == expected.shape
    assert not torch.equal(model.net.bridge.scale, torch.ones_like(model.net.bridge.scale))


@pytest.mark.parametrize("name", sorted(set(REGISTRY) - {"soft-labels", "attention-transfer"}))
def test_every_other_objective_says_of_one_position_what_it_says_of_vectors(name: str) -> None:
    torch.manual_seed(0)
    student, teacher, training = torch.randn(6, 5), torch.randn(6, 5), torch.randn(32, 5)
    of_vectors = build_sum(name, [training])(student, teacher)
    as_maps = (values[:, :, None, None] for values in (student, teacher, training))
    student, teacher, training = as_maps
    of_maps = build_sum(name, [training])(student, teacher)
    assert of_maps.item() == pytest.approx(of_vectors.item(), rel=1e-5)


def test_attention_transfer_is_refused_on_vectors_unless_it_weighs_nothing() -> None:
    plain = "stage2.standardised_input=false"
    with pytest.raises(
        UserError,
        match=r"'fitnets \+ attention-transfer' and layer pooled of tiny has one position only, on which "
        r"attention-transfer is always 0; choose a layer with maps, or another objective",
    ):
        stages.check(
            tiny.tiny_recipe(
                "face_net.tap=late + pooled", "stage1.objective=fitnets + attention-transfer", plain
            )
        )
    stages.check(
        tiny.tiny_recipe("face_net.tap=pooled", "stage1.objective=fitnets + 0 * attention-transfer", plain)
    )
    stages.check(tiny.tiny_recipe("face_net.tap=late", "stage1.objective=attention-transfer", plain))


def test_srd_of_vectors_can_be_watched_whatever_the_number_of_inner_pictures(
    teacher: FaceClassifier, tmp_path: Path
) -> None:
    """A batch of one vector has no spread; 65 pictures would leave one alone."""
    told: list[EpochRecord] = []
    watched = setting(
        "face_net.tap=pooled", "stage1.objective=srd", "stage1.patience=2",
        "stage2.standardised_input=false", told=told,
    )  # fmt: skip
    stages.fn2en(faces(24, inner=faces(65, seed=2)), teacher, watched, tmp_path)
    assert all(record.inner is not None for record in told if record.stage == "stage1")


def test_a_model_of_a_vector_is_kept_run_and_looked_into(tmp_path: Path) -> None:
    data = tiny.write_faces(tmp_path / "faces")
    run = compare(
        data,
        recipe=tiny.tiny_recipe("face_net.tap=pooled", "scratch.epochs=1"),
        out=tmp_path / "run",
        folds=2,
        methods=["scratch", "fine-tune", "fn2en"],
        machine=Machine("cpu", 1),
    )
    folder = run / "fold-1" / "fn2en" / "model"
    model = load_model(folder).module
    assert model.net.bridge.out_chw == (16, 1, 1)
    assert len(facenet2expnet.evaluate(folder, data).predictions) == 24
    assert set(pd.read_parquet(run / "predictions.parquet")["method"]) == {"scratch", "fine-tune", "fn2en"}
    found = CliRunner().invoke(app, ["all", str(run), "--out", str(tmp_path / "analyses")])
    assert found.exit_code == 0, found.output
    assert (tmp_path / "analyses" / "deepdraw.png").is_file()
