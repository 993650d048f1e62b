"""The stages: what learns and what does not, the losses to the letter, the teacher's views, one batch overfitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from facenet2expnet.training.classification import Classification, Shown
from facenet2expnet.training.comparison import Comparison
from facenet2expnet.training.regression import Regression
from lightning_fabric import Fabric
from torch.nn import functional

import tiny
from facenet2expnet import recipe as recipes
from facenet2expnet.errors import UserError
from facenet2expnet.nets.classifier import FaceClassifier
from facenet2expnet.training import stages
from facenet2expnet.training.augment import Augment, centre_crop
from facenet2expnet.training.loop import EpochRecord
from facenet2expnet.training.losses import PNorm, soft_label_loss
from facenet2expnet.training.stages import Setting
from facenet2expnet.training.teacher import TrainingPart, compute_views

pytestmark = pytest.mark.usefixtures("tiny_face_net")


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


def setting(fabric: Fabric, *settings: str, told: list[EpochRecord] | None = None) -> Setting:
    return Setting(tiny.tiny_recipe(*settings), 0, fabric, None if told is None else told.append)


def test_stage_0_moves_the_face_net_and_leaves_it_frozen(
    part: TrainingPart, fabric: Fabric, tmp_path: Path
) -> None:
    classifier = stages.fine_tune(part, setting(fabric), tmp_path)
    fresh = tiny.TinyFaceNet()
    assert not classifier.face_net.early.weight.equal(fresh.early.weight)
    assert not classifier.training
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


def test_stage_1_leaves_the_face_net_as_it_is(part: TrainingPart, fabric: Fabric, tmp_path: Path) -> None:
    teacher = stages.fine_tune(part, setting(fabric), tmp_path / "teacher")
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    for views in (0, 2):
        stages.fn2en(part, teacher, setting(fabric, f"stage1.views={views}"), tmp_path / f"{views}")
        assert all(value.equal(before[name]) for name, value in teacher.state_dict().items())
        assert not teacher.training
        assert all(parameter.grad is None for parameter in teacher.parameters())


def test_stage_1_explains_the_features_and_its_scale_lands_in_the_bridge(
    part: TrainingPart, fabric: Fabric, tmp_path: Path
) -> None:
    told: list[EpochRecord] = []
    long = setting(
        fabric, "stage1.epochs=60", "stage1.lr=0.003", "stage2.standardised_input=false", told=told
    )
    teacher = stages.fine_tune(part, setting(fabric), tmp_path / "teacher")
    model = stages.fn2en(part, teacher, long, tmp_path)
    r2 = [record.r2 for record in told if record.stage == "stage1"]
    assert r2[-1] is not None
    assert r2[-1] > 0.5 > 0.1 > (r2[0] or 0.0)
    assert not torch.equal(model.net.bridge.scale, torch.ones_like(model.net.bridge.scale))
    kept = stages.fn2en(part, teacher, setting(fabric), tmp_path / "standardised")
    assert torch.equal(kept.net.bridge.scale, torch.ones_like(kept.net.bridge.scale))


def test_stage_1_loss_is_equation_4_with_caffes_reduction(
    part: TrainingPart, fabric: Fabric, tmp_path: Path
) -> None:
    recipe = tiny.tiny_recipe(
        "augment.flip=0", "augment.erasing=0", "augment.rotation_deg=0", "augment.zoom=0"
    )
    recipe = recipes.override(recipe, ["augment.brightness=0", "crop.stored_px=36", "crop.crop_px=36"])
    teacher = FaceClassifier(tiny.TinyFaceNet(), 3, head_norm=True, head_dropout=0.0).eval()
    model = stages._expression_classifier(recipe, part, (16, 8, 8), batch_norm=False)
    augment = Augment(recipe.augment, 36)
    comparison = Comparison(model, teacher, {"late": PNorm(2.0)}, torch.zeros(16, 8, 8), [], None)
    stage = Regression(recipe.stage1, model, part, augment, comparison, None)
    examples = torch.arange(5)
    crops = part.stored(examples).float()
    difference = model.features(crops) - teacher.face_net(crops, ["late"])["late"]
    assert stage.loss(examples).item() == pytest.approx((difference**2).sum().item() / 10, rel=1e-5)


def test_one_batch_can_be_overfitted(part: TrainingPart, fabric: Fabric, tmp_path: Path) -> None:
    told: list[EpochRecord] = []
    calm = [
        "augment.erasing=0",
        "augment.brightness=0",
        "expnet.dropout=0",
        "scratch.epochs=40",
        "scratch.lr=0.003",
    ]
    model = stages.from_scratch(part, setting(fabric, *calm, told=told), tmp_path)
    assert told[-1].accuracy == 1.0
    assert told[-1].loss < 0.1
    crops = centre_crop(part.stored(torch.arange(24)), 32)
    assert model(crops).argmax(1).equal(part.targets)
    assert any(isinstance(layer, torch.nn.BatchNorm2d) for layer in model.modules())


def test_views_are_what_the_teacher_says_and_are_read_again(
    part: TrainingPart, fabric: Fabric, tmp_path: Path
) -> None:
    recipe = tiny.tiny_recipe()
    augment = Augment(recipe.augment, 32)
    teacher = FaceClassifier(tiny.TinyFaceNet(), 3, head_norm=True, head_dropout=0.5).eval()
    told: list[tuple[int, int]] = []

    def compute(seed: int = 0) -> stages.Views:
        return compute_views(
            teacher, part, ["late"], augment, 3, tmp_path, seed=seed, fabric=fabric,
            progress=lambda done, total: told.append((done, total)),
        )  # fmt: skip

    views = compute()
    assert views.crops.shape == (24, 3, 3, 32, 32)
    assert told == [(24, 24)]
    crops = torch.from_numpy(np.array(views.crops[5])).float()
    with torch.no_grad():
        scores, (features,) = teacher.with_taps(crops, ["late"])
    assert np.allclose(views.features["late"][5], features.numpy(), rtol=1e-3, atol=1e-3)
    assert np.allclose(views.scores[5], scores.numpy(), atol=1e-4)
    compute()
    assert told == [(24, 24)]
    compute(seed=1)
    with torch.no_grad():
        teacher.face_net.early.bias += 1
    compute()
    assert len(told) == 3
    assert not list(tmp_path.glob("*.partial"))


def test_features_too_large_for_half_precision_are_refused(
    part: TrainingPart, fabric: Fabric, tmp_path: Path
) -> None:
    teacher = FaceClassifier(tiny.TinyFaceNet(), 3, head_norm=True, head_dropout=0.5).eval()
    with torch.no_grad():
        teacher.face_net.late.bias += 1e5
    augment = Augment(tiny.tiny_recipe().augment, 32)
    with pytest.raises(UserError, match=r"expected at most 65504 .*set stage1\.views=0"):
        compute_views(teacher, part, ["late"], augment, 1, tmp_path, seed=0, fabric=fabric)
    assert list(tmp_path.iterdir()) == []


def test_a_tap_that_does_not_exist_is_refused_with_those_that_do(
    part: TrainingPart, fabric: Fabric, tmp_path: Path
) -> None:
    teacher = FaceClassifier(tiny.TinyFaceNet(), 3, head_norm=True, head_dropout=0.5)
    with pytest.raises(
        UserError, match=r"face_net.tap is 'fc6', expected a layer of tiny: early, late, pooled$"
    ):
        stages.fn2en(part, teacher, setting(fabric, "face_net.tap=fc6"), tmp_path)


def test_balanced_sampling_and_weights(part: TrainingPart) -> None:
    rare = TrainingPart(part.pixels, np.array([0] * 20 + [1] * 3 + [2]), 3, torch.device("cpu"))
    augment = Augment(tiny.tiny_recipe().augment, 32)
    torch.manual_seed(0)
    sampler = Classification(
        "scratch", tiny.tiny_recipe("scratch.balance=sampler").scratch, torch.nn.Identity(), rare, augment, []
    )
    drawn = torch.cat([rare.targets[sampler.sample()] for _ in range(50)]).bincount() / 1200
    assert torch.allclose(drawn, torch.full((3,), 1 / 3), atol=0.05)
    scores = torch.randn(24, 3)
    weighted = Classification(
        "scratch", tiny.tiny_recipe("scratch.balance=weights").scratch, torch.nn.Identity(), rare, augment, []
    )
    weighted.module = lambda crops: scores  # type: ignore[assignment]
    weights = 24 / (3 * torch.tensor([20.0, 3.0, 1.0]))
    expected = functional.cross_entropy(scores, rare.targets, weights)
    assert weighted.loss(torch.arange(24)).item() == pytest.approx(expected.item())


def test_a_class_that_no_picture_has_draws_no_scores_to_itself() -> None:
    """PyTorch's class weights also weigh what label smoothing gives a class: an absent one would win."""
    rare = TrainingPart(np.zeros((20, 36, 36, 3), np.uint8), np.arange(20) % 2, 3, torch.device("cpu"))
    recipe = tiny.tiny_recipe("scratch.balance=weights", "scratch.label_smoothing=0.1").scratch
    augment = Augment(tiny.tiny_recipe().augment, 32)
    stage = Classification("scratch", recipe, torch.nn.Identity(), rare, augment, [])
    scores = torch.zeros(20, 3, requires_grad=True)
    stage.module = lambda crops: scores  # type: ignore[assignment]
    stage.loss(torch.arange(20)).backward()
    assert scores.grad is not None
    descent = -scores.grad.sum(0)
    assert descent[2] < 0 < descent[:2].min()


def test_weights_and_unlabelled_partners_by_hand() -> None:
    """Four blends, one of them with a picture without a label, which does not count in the mean either."""
    part = TrainingPart(np.zeros((4, 36, 36, 3), np.uint8), np.array([0, 0, 1, -1]), 2, torch.device("cpu"))
    recipe = tiny.tiny_recipe("stage2.balance=weights").stage2
    stage = Classification(
        "stage2", recipe, torch.nn.Identity(), part, Augment(tiny.tiny_recipe().augment, 32), []
    )
    scores = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.5, 0.5], [3.0, 1.0]])
    share = torch.tensor([0.75, 1.0, 0.5, 0.9])
    shown = Shown(torch.zeros(4, 3, 36, 36), torch.arange(4), torch.tensor([2, 1, 0, 1]), share, None, [])
    weight = {0: 3 / (2 * 2), 1: 3 / (2 * 1)}
    log_p = scores.log_softmax(1)
    counted = [(0, 0, 0.75), (0, 1, 0.25), (1, 0, 1.0), (2, 1, 0.5), (2, 0, 0.5)]  # row, class, share
    total = sum(-log_p[row, label] * part_ * weight[label] for row, label, part_ in counted)
    expected = total / sum(part_ * weight[label] for _, label, part_ in counted)
    assert stage._cross_entropy(scores, shown).item() == pytest.approx(float(expected), rel=1e-6)


def test_blended_views_are_blends_and_teach_blended_labels(
    part: TrainingPart, fabric: Fabric, tmp_path: Path
) -> None:
    still = Augment(recipes.AugmentRecipe(flip=0.0), 36)
    teacher = FaceClassifier(tiny.TinyFaceNet(), 3, head_norm=True, head_dropout=0.5).eval()
    views = compute_views(teacher, part, ["late"], still, 4, tmp_path, blend=0.5, seed=0, fabric=fabric)
    assert (views.weights[:, :2] == 1).all()
    assert (views.partners[:, :2] == np.arange(24)[:, None]).all()
    assert (views.weights[:, 2:] >= 0.5).all()
    share, partner = views.weights[7, 3], views.partners[7, 3]
    expected = share * part.pixels[7].astype(float) + (1 - share) * part.pixels[partner].astype(float)
    assert np.abs(views.crops[7, 3].transpose(1, 2, 0) - expected).max() <= 0.51
    recipe = tiny.tiny_recipe("stage2.soft_labels=0.25", "stage2.temperature=2").stage2
    stage = Classification("stage2", recipe, torch.nn.Identity(), part, still, [], views)
    scores = torch.randn(24, 3)
    stage.module = lambda crops: scores  # type: ignore[assignment]
    torch.manual_seed(5)
    loss = stage.loss(torch.arange(24))
    torch.manual_seed(5)
    index = views.draw(torch.arange(24))
    weights, partners = torch.from_numpy(views.weights[index]), torch.from_numpy(views.partners[index])
    first = functional.cross_entropy(scores, part.targets, reduction="none")
    second = functional.cross_entropy(scores, part.targets[partners], reduction="none")
    hard = (weights * first + (1 - weights) * second).mean()
    soft = soft_label_loss(scores, torch.from_numpy(views.scores[index]), 2.0)
    assert loss.item() == pytest.approx((0.75 * hard + 0.25 * soft).item(), rel=1e-5)


def test_pictures_without_a_label_count_in_the_soft_loss_alone(
    part: TrainingPart, fabric: Fabric, tmp_path: Path
) -> None:
    targets = part.targets.clone()
    targets[12:] = -1
    half = TrainingPart(part.pixels, targets.numpy(), 3, torch.device("cpu"))
    augment = Augment(recipes.AugmentRecipe(flip=0.0), 36)
    plain = Classification("scratch", tiny.tiny_recipe().scratch, torch.nn.Identity(), half, augment, [])
    assert sorted(plain.sample().tolist()) == list(range(12))
    teacher = FaceClassifier(tiny.TinyFaceNet(), 3, head_norm=True, head_dropout=0.5).eval()
    views = compute_views(teacher, half, ["late"], augment, 1, tmp_path, seed=0, fabric=fabric)
    stage = Classification(
        "stage2",
        tiny.tiny_recipe("stage2.soft_labels=0.5").stage2,
        torch.nn.Identity(),
        half,
        augment,
        [],
        views,
    )
    scores = torch.randn(24, 3)
    stage.module = lambda crops: scores  # type: ignore[assignment]
    hard = functional.cross_entropy(scores[:12], targets[:12])
    soft = soft_label_loss(scores, torch.from_numpy(np.array(views.scores[:, 0])), 4.0)
    assert stage.loss(torch.arange(24)).item() == pytest.approx((0.5 * hard + 0.5 * soft).item(), rel=1e-5)
    expected = (scores[:12].argmax(1) == targets[:12]).float().mean().item()
    assert stage.epoch_metrics()["accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("face_net.tap=pool5", r"face_net\.tap is 'pool5', expected a layer of tiny: early, late, pooled"),
        ("face_net.name=nonsense", "no face net is called 'nonsense'"),
        (
            "face_net.tap=early + pool5 + pooled + fc6",
            r"face_net\.tap is 'early .* fc6', with 'pool5' and 'fc6' in it, expected a layer of tiny",
        ),
        ("face_net.tap=late + late", r"face_net\.tap is 'late \+ late', expected every layer once"),
        (
            "face_net.tap=late +",
            r"face_net\.tap is 'late \+', with '' in it, expected a layer of tiny: early, late",
        ),
        (
            "face_net.tap=auto + late",
            r"expected a layer of tiny: early, late, pooled \('auto' stands alone\)",
        ),
        ("stage1.objective=soft-labels", r"'soft-labels', which compares class scores; expected of p-norm"),
        (
            "stage1.objective=p-norm + mse",
            r"stage1\.objective: there is no objective 'mse'; expected one of p-norm",
        ),
        (
            "stage1.objective=p-norm(p=0)",
            r"stage1\.objective: p-norm: p is 0\.0, expected a finite number of 1",
        ),
    ],
)
def test_a_recipe_that_no_stage_can_follow_is_refused_first(setting: str, message: str) -> None:
    stages.check(tiny.tiny_recipe())
    with pytest.raises(UserError, match=message):
        stages.check(tiny.tiny_recipe(setting, "stage2.standardised_input=false"))


@pytest.mark.parametrize("objective", ["phi-s", "cosine + 0.5 * standardised-l2(per=channel)"])
def test_standardised_input_goes_with_every_objective_with_a_space_of_its_own(objective: str) -> None:
    stages.check(tiny.tiny_recipe(f"stage1.objective={objective}", "stage2.standardised_input=true"))
    with pytest.raises(
        UserError, match=r"standardised_input is true and .*'rkd', .* standardised-l2 or phi-s"
    ):
        stages.check(tiny.tiny_recipe("stage1.objective=rkd", "stage2.standardised_input=true"))
