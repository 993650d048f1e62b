"""Stage 1's objective at one layer or several, alone and beside the cross-entropy; the bridge's scale afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

import tiny
from facenet2expnet import recipe as recipes
from facenet2expnet.experiment.run import Machine, train
from facenet2expnet.nets.classifier import ExpressionClassifier, FaceClassifier
from facenet2expnet.training import stages
from facenet2expnet.training.augment import Augment
from facenet2expnet.training.classification import Classification
from facenet2expnet.training.comparison import Accompanied, Comparison, further_bridges
from facenet2expnet.training.loop import EpochRecord
from facenet2expnet.training.losses import PNorm, build_sum, soft_label_loss
from facenet2expnet.training.stages import Setting
from facenet2expnet.training.teacher import TrainingPart, Views, compute_views

pytestmark = pytest.mark.usefixtures("tiny_face_net")

STILL = recipes.AugmentRecipe(flip=0.0)
SHAPES = {"late": (16, 8, 8), "early": (8, 16, 16)}


@pytest.fixture
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture
def part() -> TrainingPart:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 90, (24, 36, 36, 3), dtype=np.uint8)
    targets = np.arange(24) % 3
    pixels[np.arange(24), ..., targets] += 120
    return TrainingPart(pixels, targets, 3, torch.device("cpu"))


@pytest.fixture
def teacher() -> FaceClassifier:
    return FaceClassifier(tiny.TinyFaceNet(), 3, head_norm=True, head_dropout=0.5).eval()


def student(part: TrainingPart) -> ExpressionClassifier:
    torch.manual_seed(3)
    recipe = recipes.override(tiny.tiny_recipe(), ["crop.crop_px=36", "expnet.dropout=0"])
    return stages._expression_classifier(recipe, part, (16, 8, 8), batch_norm=False)


def all_features(part: TrainingPart, teacher: FaceClassifier, tap: str) -> Tensor:
    with torch.no_grad():
        return teacher.face_net(part.stored(torch.arange(len(part))).float(), [tap])[tap]


def comparison(
    model: ExpressionClassifier,
    part: TrainingPart,
    teacher: FaceClassifier,
    objective: str,
    *taps: str,
    views: Views | None = None,
) -> Comparison:
    fitted = {tap: build_sum(objective, [all_features(part, teacher, tap)]) for tap in taps}
    mean = fitted[taps[0]].target(all_features(part, teacher, taps[0])).mean(0)
    further = further_bridges(model.net.bridge.in_chw, [SHAPES[tap] for tap in taps[1:]], part.device)
    return Comparison(model, teacher, fitted, mean, further, views)


def test_the_loss_is_the_mean_over_layers_each_with_its_own_statistics(
    part: TrainingPart, teacher: FaceClassifier
) -> None:
    model = student(part)
    both = comparison(model, part, teacher, "standardised-l2", "late", "early")
    crops = part.stored(torch.arange(5)).float()
    maps = model.maps(crops)
    found = both.loss(maps, both.features(crops, None))
    expected = torch.zeros(())
    for tap, bridge in (("late", model.net.bridge), ("early", both.bridges[0])):
        training = all_features(part, teacher, tap)
        spread = training.std(0, unbiased=False)
        spread[spread < 1e-6] = 1.0
        z = (training[:5] - training.mean(0)) / spread
        expected = expected + (bridge(maps) - z).square().mean() / 2
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    found.backward()
    for bridge in (model.net.bridge, *both.bridges):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in bridge.parameters())


def test_r2_is_of_the_first_layer_and_begins_anew(part: TrainingPart, teacher: FaceClassifier) -> None:
    model = student(part)
    both = comparison(model, part, teacher, "p-norm", "late", "early")
    crops = part.stored(torch.arange(24)).float()
    both.loss(model.maps(crops), both.features(crops, None))
    targets = all_features(part, teacher, "late")
    unexplained = (model.features(crops) - targets).square().sum()
    expected = 1 - unexplained / (targets - targets.mean(0)).square().sum()
    assert both.r2() == pytest.approx(expected.item(), rel=1e-4)
    with pytest.raises(ValueError, match="at least one batch"):
        both.r2()


@pytest.mark.parametrize(
    "objective", ["phi-s", "phi-s(per=unit) + srd", "0.5 * standardised-l2(per=channel) + rkd"]
)
def test_the_restored_bridge_has_the_teachers_scale_and_the_loss_stays(
    part: TrainingPart, teacher: FaceClassifier, objective: str
) -> None:
    model = student(part)
    one = comparison(model, part, teacher, objective, "late")
    crops = part.stored(torch.arange(24)).float()
    features = one.features(crops, None)
    before, z = one.loss(model.maps(crops), features).item(), model.features(crops)
    one.restore_scale()
    torch.testing.assert_close(model.features(crops), one.objectives[0].restore(z), rtol=1e-4, atol=1e-3)
    assert one.loss(model.maps(crops), features).item() == pytest.approx(before, rel=1e-4)


def test_a_student_that_knows_the_target_gives_the_teachers_features(
    part: TrainingPart, teacher: FaceClassifier
) -> None:
    model = student(part)
    one = comparison(model, part, teacher, "phi-s", "late")
    crops = part.stored(torch.arange(24)).float()
    features = one.features(crops, None)[0]
    bridge = model.net.bridge
    bridge.conv, bridge.resize = nn.Conv2d(16, 16, 1), nn.Identity()
    with torch.no_grad():
        bridge.conv.weight.copy_(torch.eye(16)[..., None, None])
        bridge.conv.bias.zero_()  # type: ignore[union-attr]
    z = one.objectives[0].target(features)
    assert one.loss(z, [features]).item() == pytest.approx(0, abs=1e-9)
    one.restore_scale()
    torch.testing.assert_close(bridge(z), features, rtol=1e-4, atol=1e-4)
    assert one.loss(z, [features]).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("restored", [False, True])
def test_the_joint_loss_is_the_sum_of_its_parts(
    part: TrainingPart, teacher: FaceClassifier, restored: bool
) -> None:
    model = student(part)
    both = comparison(model, part, teacher, "phi-s + 0.5 * cosine", "late", "early")
    if restored:
        both.restore_scale()
    recipe = tiny.tiny_recipe("stage2.regress=0.25").stage2
    module = Accompanied(model, both.bridges)
    stage = Classification("stage2", recipe, module, part, Augment(STILL, 36), [], None, both)
    examples = torch.arange(7)
    crops = part.stored(examples).float()
    expected = functional.cross_entropy(model(crops), part.targets[:7])
    expected = expected + 0.25 * both.loss(model.maps(crops), both.features(crops, None))
    both.r2()
    assert stage.loss(examples).item() == pytest.approx(expected.item(), rel=1e-6)
    assert set(stage.epoch_metrics()) == {"accuracy", "r2"}
    assert not model.net.convolutions._forward_hooks


@pytest.mark.parametrize("soft", [0.0, 0.5])
def test_with_views_the_joint_loss_reads_the_views_and_takes_pictures_without_a_label(
    part: TrainingPart, teacher: FaceClassifier, fabric: Fabric, tmp_path: Path, soft: float
) -> None:
    targets = part.targets.clone()
    targets[12:] = -1
    half = TrainingPart(part.pixels, targets.numpy(), 3, torch.device("cpu"))
    views = compute_views(teacher, half, ["late"], Augment(STILL, 36), 1, tmp_path, seed=0, fabric=fabric)
    model = student(part)
    one = comparison(model, part, teacher, "p-norm", "late", views=views)
    recipe = tiny.tiny_recipe("stage2.regress=2", f"stage2.soft_labels={soft}").stage2
    stage = Classification("stage2", recipe, model, half, Augment(STILL, 36), [], views, one)
    assert sorted(stage.sample().tolist()) == list(range(24))
    crops = part.stored(torch.arange(24)).float()
    scores, answers = model(crops), torch.from_numpy(np.array(views.scores[:, 0]))
    features = torch.from_numpy(np.array(views.features["late"][:, 0])).float()
    expected = (1 - soft) * functional.cross_entropy(scores[:12], targets[:12])
    expected = expected + soft * soft_label_loss(scores, answers, 4.0)
    expected = expected + 2 * (model.features(crops) - features).square().sum() / 48
    assert stage.loss(torch.arange(24)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_without_views_pictures_without_a_label_count_in_the_regression_alone(
    part: TrainingPart, teacher: FaceClassifier
) -> None:
    targets = part.targets.clone()
    targets[12:] = -1
    half = TrainingPart(part.pixels, targets.numpy(), 3, torch.device("cpu"))
    model = student(part)
    one = comparison(model, part, teacher, "p-norm", "late")
    recipe = tiny.tiny_recipe("stage2.regress=1").stage2
    stage = Classification("stage2", recipe, model, half, Augment(STILL, 36), [], None, one)
    assert sorted(stage.sample().tolist()) == list(range(24))
    crops = part.stored(torch.arange(24)).float()
    expected = functional.cross_entropy(model(crops)[:12], targets[:12])
    expected = expected + one.loss(model.maps(crops), one.features(crops, None))
    assert stage.loss(torch.arange(24)).item() == pytest.approx(expected.item(), rel=1e-6)
    alone = stage.loss(torch.arange(12, 24)).item()
    assert alone == pytest.approx(one.loss(model.maps(crops[12:]), one.features(crops[12:], None)).item())


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("standardised", ["true", "false"])
def test_one_stage_learns_features_and_classes(
    part: TrainingPart, fabric: Fabric, tmp_path: Path, views: int, standardised: str
) -> None:
    told: list[EpochRecord] = []
    settings = ["stage1.epochs=0", "stage2.regress=1", "stage2.epochs=20", f"stage1.views={views}"]
    settings += [
        "stage2.lr=0.003",
        "stage2.lr_factor_pretrained=0",
        "expnet.dropout=0",
        "stage1.objective=phi-s",
    ]
    settings += [f"stage2.standardised_input={standardised}"]
    recipe = tiny.tiny_recipe(*settings)
    teacher = stages.fine_tune(part, Setting(recipe, 0, fabric), tmp_path / "teacher")
    model = stages.fn2en(part, teacher, Setting(recipe, 0, fabric, told.append), tmp_path)
    assert {record.stage for record in told} == {"stage2"}
    first, last = told[0], told[-1]
    assert first.r2 is not None
    assert last.r2 is not None
    assert last.r2 > 0.3 > first.r2
    assert (last.accuracy or 0.0) > 0.6
    restored = not torch.equal(model.net.bridge.scale, torch.ones_like(model.net.bridge.scale))
    assert restored == (standardised == "false")


def test_soft_labels_alone_need_no_stage_1(part: TrainingPart, fabric: Fabric, tmp_path: Path) -> None:
    told: list[EpochRecord] = []
    recipe = tiny.tiny_recipe("stage1.epochs=0", "stage2.soft_labels=0.5")
    teacher = stages.fine_tune(part, Setting(recipe, 0, fabric), tmp_path / "teacher")
    stages.fn2en(part, teacher, Setting(recipe, 0, fabric, told.append), tmp_path)
    assert [(record.stage, record.r2) for record in told] == [("stage2", None)] * 2


def test_further_bridges_learn_in_both_stages_and_are_in_no_model(tmp_path: Path) -> None:
    faces = tiny.write_faces(tmp_path / "faces")
    recipe = tiny.tiny_recipe("face_net.tap=late + early", "stage2.regress=0.5", "stage2.ema_decay=0.5")
    run = train(faces, recipe=recipe, out=tmp_path / "run", machine=Machine("cpu"))
    folder = next(run.rglob("fn2en"))
    first, second = (load_file(folder / f"{name}.safetensors") for name in ("stage1", "stage2"))
    assert first["2.conv.weight"].shape[0] == 8
    assert not first["2.conv.weight"].equal(second["bridges.0.conv.weight"])
    kept = load_file(folder / "model" / "model.safetensors")
    assert set(kept) == {name.removeprefix("network.") for name in second if name.startswith("network.")}
    plain = train(faces, recipe=tiny.tiny_recipe(), out=tmp_path / "plain", machine=Machine("cpu"))
    assert set(kept) == set(load_file(next(plain.rglob("fn2en")) / "model" / "model.safetensors"))


def test_every_layer_has_a_file_of_its_own_and_the_views_are_shared(
    part: TrainingPart, teacher: FaceClassifier, fabric: Fabric, tmp_path: Path
) -> None:
    augment = Augment(tiny.tiny_recipe().augment, 32)
    told: list[int] = []

    def compute(*taps: str) -> Views:
        return compute_views(
            teacher, part, taps, augment, 2, tmp_path, seed=0, fabric=fabric, blend=0.5,
            progress=lambda done, total: told.append(done),
        )  # fmt: skip

    one = compute("late")
    names = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(names) == 5
    two = compute("late", "early")
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(after) == 6
    assert {name: after[name] for name in names} == names
    assert len(told) == 2
    compute("early")
    compute("early", "late")
    assert len(told) == 2
    with torch.no_grad():
        crops = torch.from_numpy(np.array(two.crops[3])).float()
        scores, (early, late) = teacher.with_taps(crops, ["early", "late"])
    assert np.allclose(two.features["early"][3], early.numpy(), rtol=1e-3, atol=1e-3)
    assert np.allclose(one.features["late"][3], late.numpy(), rtol=1e-3, atol=1e-3)
    assert np.allclose(two.scores[3], scores.numpy(), atol=1e-4)
    next(tmp_path.glob("views-scores-*")).unlink()
    again = compute("late", "early")
    assert len(told) == 3
    assert np.array_equal(again.crops, one.crops)
    assert np.array_equal(again.features["early"], two.features["early"])


def test_further_bridges_leave_the_expression_nets_own_draws_alone(part: TrainingPart) -> None:
    model, again = student(part), student(part)
    further_bridges(model.net.bridge.in_chw, [(8, 16, 16)], part.device)
    same = zip(model.parameters(), again.parameters(), strict=True)
    assert all(first.equal(second) for first, second in same)


def test_a_plain_objective_needs_no_sum(part: TrainingPart, teacher: FaceClassifier) -> None:
    model = student(part)
    crops = part.stored(torch.arange(4)).float()
    plain = Comparison(model, teacher, {"late": PNorm()}, torch.zeros(16, 8, 8), [], None)
    plain.restore_scale()
    expected = (model.features(crops) - all_features(part, teacher, "late")[:4]).square().sum() / 8
    assert plain.loss(model.maps(crops), plain.features(crops, None)).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("taps", [[], ["late"], ["late", "early"]])
def test_without_views_soft_labels_are_asked_of_the_live_teacher(
    part: TrainingPart, teacher: FaceClassifier, taps: list[str]
) -> None:
    targets = part.targets.clone()
    targets[12:] = -1
    half = TrainingPart(part.pixels, targets.numpy(), 3, torch.device("cpu"))
    model = student(part)
    both = comparison(model, part, teacher, "p-norm", *taps) if taps else None
    recipe = tiny.tiny_recipe("stage2.soft_labels=0.25", "stage2.temperature=2", "stage2.regress=2").stage2
    stage = Classification("stage2", recipe, model, half, Augment(STILL, 36), [], None, both, teacher)
    assert sorted(stage.sample().tolist()) == list(range(24))
    crops = part.stored(torch.arange(24)).float()
    scores, answers = model(crops), teacher(crops).detach()
    expected = 0.75 * functional.cross_entropy(scores[:12], targets[:12])
    expected = expected + 0.25 * soft_label_loss(scores, answers, 2.0)
    if both is not None:
        expected = expected + 2 * both.loss(model.maps(crops), both.features(crops, None))
    loss = stage.loss(torch.arange(24))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    alone = stage.loss(torch.arange(12, 24)).item()  # none has a label: the soft part is all there is
    rest = 0.25 * soft_label_loss(scores[12:], answers[12:], 2.0)
    if both is not None:
        rest = rest + 2 * both.loss(model.maps(crops[12:]), both.features(crops[12:], None))
    assert alone == pytest.approx(rest.item(), rel=1e-3)


def test_the_live_teacher_is_asked_about_the_mixed_pictures(
    part: TrainingPart, teacher: FaceClassifier
) -> None:
    seen: list[Tensor] = []
    model = student(part)
    recipe = tiny.tiny_recipe("stage1.views=0", "stage2.soft_labels=1", "stage2.mixup=0.4").stage2
    stage = Classification("stage2", recipe, model, part, Augment(STILL, 36), [], None, None, teacher)
    teacher.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    teacher.face_net.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    torch.manual_seed(5)
    loss = stage.loss(torch.arange(24))
    blends = seen[0]
    assert not any(torch.equal(blends[0], crop) for crop in part.stored(torch.arange(24)).float())
    expected = soft_label_loss(model(blends), teacher(blends), 4.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    "settings", [["stage1.epochs=0"], ["stage2.regress=0.5", "stage1.objective=fitnets"]]
)
def test_soft_labels_train_with_the_live_teacher(
    part: TrainingPart, fabric: Fabric, tmp_path: Path, settings: list[str]
) -> None:
    told: list[EpochRecord] = []
    recipe = tiny.tiny_recipe(
        "stage1.views=0", "stage2.soft_labels=1", "stage2.epochs=20", "stage2.lr=0.003",
        "expnet.dropout=0", "stage2.standardised_input=false", "stage2.lr_factor_pretrained=1", *settings,
    )  # fmt: skip
    teacher = stages.fine_tune(part, Setting(recipe, 0, fabric), tmp_path / "teacher")
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    stages.fn2en(part, teacher, Setting(recipe, 0, fabric, told.append), tmp_path)
    losses = [record.loss for record in told if record.stage == "stage2"]
    assert losses[-1] < 0.5 * losses[0]
    assert all(value.equal(before[name]) for name, value in teacher.state_dict().items())
    assert not list(tmp_path.glob("views-*"))
