"""The stages: what learns and what does not, every loss recomputed by hand, one batch overfitted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import STILL, context, faces, student, teacher, teaching
from torch import Tensor, nn
from torch.nn import functional

import tiny
from facenet2expnet.crop import centre_crop
from facenet2expnet.errors import UserError
from facenet2expnet.nets.classifier import LUMINANCE, AveragedTeacher, ExpressionClassifier
from facenet2expnet.nets.storage import read_tensors
from facenet2expnet.recipe import Recipe
from facenet2expnet.training import stages
from facenet2expnet.training.classify import Batch, ClassifyStage, Stage2
from facenet2expnet.training.distil import DistilStage
from facenet2expnet.training.loop import EpochRecord
from facenet2expnet.training.losses import soft_label_loss
from facenet2expnet.training.teacher import CachedViews, TrainingSet, cache_views

pytestmark = pytest.mark.usefixtures("tiny_face_net")

ALL = torch.arange(24)
HALF_LABELLED = [0, 1, 2] * 4 + [-1] * 12
CALM = [f"augment.{change}=0" for change in ("flip", "rotation_deg", "zoom", "brightness", "erasing")]
CALM += ["crop.crop_px=36", "expnet.dropout=0"]
"""Whole stored faces and no dropout: what is to be learned is learned soon."""


def copy_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def changed(before: dict[str, Tensor], net: nn.Module) -> set[str]:
    return {name for name, value in net.state_dict().items() if not value.equal(before[name])}


def still_views(data: TrainingSet, folder: Path, **others: Any) -> CachedViews:
    return cache_views(teacher(), data, "late", STILL, others.pop("count", 1), folder, seed=0, **others)


def stage2(data: TrainingSet, recipe: Recipe, views: CachedViews | None = None) -> Stage2:
    """Give stage 2 on whole stored faces, with "p-norm" beside it if the recipe weights it."""
    losses = ["p-norm"] if recipe.stage2.distil_weight else []
    return Stage2(recipe.stage2, student(data), data, STILL, [], teaching(data, *losses, views=views))


def scratch(data: TrainingSet, module: nn.Module, *settings: str) -> ClassifyStage:
    return ClassifyStage("scratch", tiny.tiny_recipe(*settings).scratch, module, data, STILL, [])


class Scores(nn.Module):
    """Scores made of the mean colour, so that other crops have other ones; keeps the crops."""

    def forward(self, crops: Tensor) -> Tensor:
        self.crops = crops
        return crops.mean(dim=(2, 3)) / 20


def test_stage_0_trains_the_face_net_and_returns_it_frozen(tmp_path: Path) -> None:
    records: list[EpochRecord] = []
    long = context(*CALM, "fine_tune.epochs=12", "fine_tune.lr_factor_pretrained=1", records=records)
    classifier = stages.fine_tune(faces(), long, tmp_path)
    assert records[-1].accuracy == 1.0
    assert changed(copy_of(tiny.TinyFaceNet()), classifier.face_net) == set(classifier.face_net.state_dict())
    assert not classifier.training
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


@pytest.mark.parametrize("settings", [[], ["stage1.cached_views=0", "stage2.distil_weight=0.5"]])
def test_stages_1_and_2_leave_the_face_net_as_it_is(tmp_path: Path, settings: list[str]) -> None:
    face_net = stages.fine_tune(faces(), context(), tmp_path / "teacher")
    before = copy_of(face_net)
    stages.fn2en(faces(), face_net, context("stage2.soft_labels=0.5", *settings), tmp_path)
    assert changed(before, face_net) == set()
    assert not face_net.training
    assert all(parameter.grad is None for parameter in face_net.parameters())


@pytest.mark.parametrize("grey", [True, False])
def test_only_nets_that_learned_from_grey_pictures_ignore_colour(tmp_path: Path, grey: bool) -> None:
    data = faces(validation=faces())
    if grey:
        data.pixels = data.pixels[..., :1].repeat(3, 3)
    nets = [
        stages.from_scratch(data, context(), tmp_path / "scratch"),
        stages.fn2en(data, teacher(), context(), tmp_path / "fn2en"),
        stages.pretrain(data, context(), tmp_path / "start")[0],
    ]
    crops = 255 * torch.rand(2, 3, 32, 32)
    luminance = (crops * torch.tensor(LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True).repeat(1, 3, 1, 1)
    same = [torch.allclose(net.distilled(crops), net.distilled(luminance), atol=1e-3) for net in nets]
    assert same == [grey] * 3


@pytest.mark.parametrize(("coloured", "warned"), [(0, False), (1, True), (2, False)])
def test_a_set_with_hardly_any_colour_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, coloured: int, warned: bool
) -> None:
    data = faces([0, 1, 2] * 10)
    data.pixels = data.pixels.copy()
    data.pixels[coloured:] = data.pixels[coloured:, ..., :1]
    stages.from_scratch(data, context(), tmp_path)
    assert ("training pictures have colour" in caplog.text) == warned
    assert ("Only 1 of 30 training pictures" in caplog.text) == warned


def test_a_finished_training_ignores_colour_again_when_it_is_read_from_its_checkpoints(tmp_path: Path) -> None:
    data = faces(validation=faces())
    data.pixels = data.pixels[..., :1].repeat(3, 3)
    setting = context("stage2.patience=2")
    first, again = (stages.fn2en(data, teacher(), setting, tmp_path) for _ in range(2))
    assert copy_of(first).keys() == copy_of(again).keys()
    assert changed(copy_of(first), again) == set()
    crops = 255 * torch.rand(2, 3, 32, 32)
    grey = (crops * torch.tensor(LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True).repeat(1, 3, 1, 1)
    assert torch.allclose(again(crops), again(grey), atol=1e-4)


def test_the_seed_alone_decides_the_weights(tmp_path: Path) -> None:
    def train(seed: int, folder: Path) -> dict[str, Tensor]:
        torch.rand(len(str(folder)))  # other draws before
        setting = context(seed=seed)
        face_net = stages.fine_tune(faces(), setting, folder)
        nets = [
            face_net,
            stages.from_scratch(faces(), setting, folder),
            stages.fn2en(faces(), face_net, setting, folder),
        ]
        return copy_of(nn.ModuleList(nets))

    first, again, other = train(0, tmp_path / "a"), train(0, tmp_path / "again"), train(1, tmp_path / "other")
    assert all(value.equal(again[name]) for name, value in first.items())
    weights = [name for name in first if name.endswith(("conv1.weight", "scores.weight"))]
    assert len(weights) == 5
    assert not any(first[name].equal(other[name]) for name in weights)


@pytest.mark.parametrize("loss", ["p-norm", "standardised-l2", "fitnets", "rkd"])
def test_stage_1_learns_with_every_loss(tmp_path: Path, caplog: pytest.LogCaptureFixture, loss: str) -> None:
    records: list[EpochRecord] = []
    settings = [f'stage1.losses=[{{loss="{loss}"}}]', "stage2.standardised_input=false", "stage1.epochs=40"]
    long = context(*CALM, *settings, "stage1.lr=0.003", "stage1.cached_views=0", records=records)
    stages.fn2en(faces(), teacher(), long, tmp_path)
    losses = [record.loss for record in records if record.stage == "stage1"]
    r2 = [record.r2 for record in records if record.stage == "stage1"]
    assert losses[-1] < 0.6 * losses[0]
    if loss != "rkd":  # relations say nothing about the features themselves
        assert r2[-1] > 0.5 > 0.2 > r2[0]
    assert not caplog.records


def test_after_stage_1_the_bridge_gives_the_face_nets_scale_or_the_standardised_one(tmp_path: Path) -> None:
    statistics = teaching(faces(), "fitnets")
    found = {}
    for standardised in ("true", "false"):
        setting = context(f"stage2.standardised_input={standardised}", "stage1.cached_views=0", "crop.crop_px=36")
        model = stages.fn2en(faces(), teacher(), setting, tmp_path / standardised)
        found[standardised] = model.net.bridge
    assert torch.equal(found["true"].scale, torch.ones(16, 8, 8))
    assert not found["true"].shift.any()
    assert statistics.feature_loss is not None
    torch.testing.assert_close(found["false"].scale, statistics.feature_loss.statistics.std)
    torch.testing.assert_close(found["false"].shift, statistics.feature_loss.statistics.mean)


def test_one_batch_can_be_overfitted(tmp_path: Path) -> None:
    records: list[EpochRecord] = []
    settings = [*CALM, "scratch.epochs=30", "scratch.lr=0.003", "scratch.batch_size=24"]
    model = stages.from_scratch(faces(), context(*settings, records=records), tmp_path)
    assert records[-1].accuracy == 1.0
    assert records[-1].loss < 0.1
    crops = faces().stored(ALL).float()
    assert model(crops).argmax(1).equal(faces().targets)
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())


@pytest.mark.parametrize("cached_views", [0, 2])
def test_without_stage_1_stage_2_learns_features_and_classes(tmp_path: Path, cached_views: int) -> None:
    records: list[EpochRecord] = []
    settings = [*CALM, "stage1.epochs=0", "stage2.distil_weight=1", "stage2.epochs=20", "stage2.lr=0.003"]
    settings += ["stage2.lr_factor_pretrained=0", f"stage1.cached_views={cached_views}"]  # all layers are new
    stages.fn2en(faces(), teacher(), context(*settings, records=records), tmp_path)
    assert {record.stage for record in records} == {"stage2"}
    first, last = records[0], records[-1]
    assert last.r2 > 0.3 > first.r2
    assert last.accuracy > 0.6


def test_soft_labels_alone_teach_the_student(tmp_path: Path) -> None:
    records: list[EpochRecord] = []
    settings = [*CALM, "stage1.epochs=0", "stage2.soft_labels=1", "stage2.epochs=20", "stage2.lr=0.003"]
    face_net = stages.fine_tune(faces(), context("fine_tune.epochs=8"), tmp_path / "teacher")
    unlabelled = faces([-1] * 24)
    unlabelled.pixels = faces().pixels
    setting = context(*settings, "stage1.cached_views=0", records=records)
    model = stages.fn2en(unlabelled, face_net, setting, tmp_path)
    assert records[-1].loss < 0.5 * records[0].loss
    assert {record.r2 for record in records} == {None}
    crops = faces().stored(ALL).float()
    assert (model(crops).argmax(1) == face_net(crops).argmax(1)).float().mean() > 0.8


def test_a_stage_1_that_learns_nothing_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stages.fn2en(faces(), teacher(), context("stage1.lr=1e-12"), tmp_path / "nothing")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert message.startswith("stage1 ended with R2 = ")
    for advice in ("--set stage1.epochs=4", "--set stage1.lr=1e-11", "expnet.batch_norm=true"):
        assert advice in message
    caplog.clear()
    stages.fn2en(faces(), teacher(), context(*CALM, "stage1.epochs=20", "stage1.lr=0.003"), tmp_path / "much")
    assert not caplog.records


def test_early_stopping_watches_plain_losses_of_the_validation_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation = faces([0, 1, 2] * 23, seed=2)  # two batches, of 64 and of 5
    data = faces(validation=validation)
    settings = [f"{name}.patience=9" for name in ("fine_tune", "stage1", "stage2")]
    settings += [
        "stage2.balance=weights",
        "fine_tune.epochs=1",
        "stage2.epochs=1",
    ]
    records: list[EpochRecord] = []
    setting = context(*settings, records=records)
    face_net = stages.fine_tune(data, setting, tmp_path / "teacher")
    crops = centre_crop(validation.stored(torch.arange(69)), 32).float()
    expected = functional.cross_entropy(face_net(crops), validation.targets).item()
    assert records[-1].val_loss == pytest.approx(expected, rel=1e-5)

    built: list[DistilStage] = []
    start = DistilStage.__init__
    monkeypatch.setattr(DistilStage, "__init__", lambda self, *given: (built.append(self), start(self, *given))[1])
    model = stages.fn2en(data, face_net, setting, tmp_path)
    expected = functional.cross_entropy(model(crops), validation.targets).item()
    assert records[-1].val_loss == pytest.approx(expected, rel=1e-5)

    (stage1,) = built
    stage1.module.load_state_dict(read_tensors(tmp_path / "stage1.safetensors")[0])
    statistics = stage1.feature_loss.statistics
    with torch.no_grad():
        target = (face_net.with_taps(crops, ["late"])[1][0] - statistics.mean) / statistics.std
        expected = (stage1.student.eval().distilled(crops) - target).square().mean().item()
    best = min(record.val_loss for record in records if record.stage == "stage1")
    assert best == pytest.approx(expected, rel=1e-4)
    assert stage1.teaching.views is not None
    assert len(stage1.teaching.views.crops) == 24  # none of a validation picture


class NormedFaceNet(tiny.TinyFaceNet):
    """The tiny face net with a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)

    def features(self, inputs: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        early = self.norm(self.early(inputs)).relu()
        late = self.late(early).relu()
        found = {"early": early, "late": late, "pooled": late.mean(dim=(2, 3))}
        return {name: found[name] for name in taps}


def test_frozen_batch_norms_of_the_face_net_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages.face, "load", lambda name, weights: NormedFaceNet())
    before = copy_of(NormedFaceNet())
    norms = {name for name in before if name.startswith("norm.")}
    learned = stages.fine_tune(faces(), context(), tmp_path / "trainable")
    kept = stages.fine_tune(faces(), context("fine_tune.batch_norm=frozen"), tmp_path / "frozen")
    assert len(norms) == 5
    assert changed(before, learned.face_net) == set(before)
    assert changed(before, kept.face_net) == set(before) - norms
    assert kept.head.norm.running_mean.abs().sum() > 0  # the new head's own norm learns


def test_frozen_batch_norms_of_stage_1_stay_in_stage_2(tmp_path: Path) -> None:
    for batch_norm in ("trainable", "frozen"):
        model = stages.fn2en(faces(), teacher(), context(f"stage2.batch_norm={batch_norm}"), tmp_path / batch_norm)
        stage1 = read_tensors(tmp_path / batch_norm / "stage1.safetensors")[0]
        trained = nn.ModuleList([model.net.convolutions, model.net.bridge])
        norms = {name for name in stage1 if ".bn" in name}
        assert len(norms) == 5 * 5
        weights = {"0.conv1.weight", "1.conv.weight"}
        expected = weights | norms if batch_norm == "trainable" else weights
        assert changed(stage1, trained) & (norms | weights) == expected


def by_hand(model: ExpressionClassifier, crops: Tensor) -> tuple[Tensor, Tensor]:
    """Give g(I) and O of the tiny expression net with plain tensor operations."""
    weights, maps = dict(model.named_parameters()), (crops - 127.5) / 64
    for block in range(1, 6):
        name = f"net.convolutions.conv{block}"
        maps = functional.conv2d(maps, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)
        maps = functional.max_pool2d(maps.clamp(min=0), 3, stride=2, ceil_mode=True)
    bridge = torch.einsum("bkhw,ok->bohw", maps, weights["net.bridge.conv.weight"][:, :, 0, 0])
    bridge = bridge + weights["net.bridge.conv.bias"][:, None, None]
    g = model.net.bridge.resize(bridge)
    fc6 = (g.flatten(1) @ weights["net.head.fc6.weight"].T + weights["net.head.fc6.bias"]).clamp(min=0)
    return g, fc6 @ weights["net.head.scores.weight"].T + weights["net.head.scores.bias"]


def test_stage_1_is_equation_4_and_every_parameter_receives_a_gradient(tmp_path: Path) -> None:
    data, net = faces(), teacher().face_net
    crops = data.stored(ALL).float()
    sized = functional.interpolate(crops, (32, 32), mode="bilinear", align_corners=False, antialias=True)
    early = functional.conv2d((sized - 127.5) / 64, net.early.weight, net.early.bias, 2, 1).relu()
    target = functional.conv2d(early, net.late.weight, net.late.bias, 2, 1).relu()
    for views in (None, still_views(data, tmp_path)):
        model = student(data)
        ask = teaching(data, "p-norm", views=views)
        stage = DistilStage(tiny.tiny_recipe().stage1, model, data, STILL, ask)
        assert sorted(stage.epoch_order().tolist()) == ALL.tolist()
        loss = stage.loss(ALL)
        g, _ = by_hand(model, crops)
        unexplained = (g - target).square().sum()
        assert loss.item() == pytest.approx(unexplained.item() / (2 * 24), rel=1e-3)
        r2 = 1 - unexplained / (target - target.mean(0)).square().sum()
        assert stage.epoch_metrics() == {"r2": pytest.approx(r2.item(), rel=1e-3)}
        loss.backward()
        learned = list(stage.module.parameters())
        assert len(learned) == 2 * 5 + 4
        assert all(parameter.grad.abs().sum() > 0 for parameter in learned)
        assert all(parameter.grad is None for parameter in model.net.head.parameters())


def test_stage_2_is_equation_5_and_every_parameter_receives_a_gradient() -> None:
    data = faces()
    stage = stage2(data, tiny.tiny_recipe())
    loss = stage.loss(ALL)
    _, scores = by_hand(stage.module, data.stored(ALL).float())
    expected = -scores.log_softmax(1)[ALL, data.targets].mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    right = (scores.argmax(1) == data.targets).float().mean().item()
    assert stage.epoch_metrics() == {"accuracy": pytest.approx(right)}
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in stage.module.parameters())


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(("soft_labels", "distil_weight"), [(0.25, 0), (0, 2), (0.25, 2)])
def test_stage_2_with_soft_labels_and_feature_loss_by_hand(
    tmp_path: Path, soft_labels: float, distil_weight: float, cached: bool
) -> None:
    """Half of the pictures have no label: they count in the teacher's terms, not in the cross-entropy."""
    data = faces(HALF_LABELLED)
    recipe = tiny.tiny_recipe(
        f"stage2.soft_labels={soft_labels}", f"stage2.distil_weight={distil_weight}", "stage2.temperature=2"
    )
    stage = stage2(data, recipe, still_views(data, tmp_path) if cached else None)
    assert sorted(stage.epoch_order().tolist()) == ALL.tolist()
    crops = data.stored(ALL).float()
    with torch.no_grad():
        teacher_scores, (target,) = teacher().with_taps(crops, ["late"])
    g, scores = by_hand(stage.module, crops)
    for examples in (ALL, ALL[12:]):  # labelled and not; unlabelled alone
        hard = functional.cross_entropy(scores[:12], data.targets[:12]) if len(examples) == 24 else 0.0
        log_p, q = (scores / 2).log_softmax(1)[examples], (teacher_scores / 2).softmax(1)[examples]
        soft = 2**2 * (q * (q.log() - log_p)).sum() / len(examples)
        features = (g - target)[examples].square().sum() / (2 * len(examples))
        expected = (1 - soft_labels) * hard + soft_labels * soft + distil_weight * features
        loss = stage.loss(examples)
        assert loss.item() == pytest.approx(float(expected.detach()), rel=1e-3)
    loss.backward()
    assert all(parameter.grad is None for parameter in stage.teaching.teacher.parameters())
    right = (scores.argmax(1)[:12] == data.targets[:12]).float().mean().item()
    metrics = stage.epoch_metrics()
    assert metrics["accuracy"] == pytest.approx(right)
    assert set(metrics) == {"accuracy", "r2"} if distil_weight else {"accuracy"}


def test_pictures_without_a_label_take_part_in_stage_1_and_not_in_plain_cross_entropy() -> None:
    data = faces(HALF_LABELLED)
    stage1 = DistilStage(tiny.tiny_recipe().stage1, student(data), data, STILL, teaching(data, "p-norm"))
    assert sorted(stage1.epoch_order().tolist()) == ALL.tolist()
    assert sorted(stage2(data, tiny.tiny_recipe()).epoch_order().tolist()) == list(range(12))
    assert sorted(scratch(data, Scores()).epoch_order().tolist()) == list(range(12))


def test_with_distilled_gives_the_scores_of_forward() -> None:
    model, crops = student(faces()).eval(), faces().stored(ALL).float()
    model.net.bridge.set_affine(torch.randn(16, 8, 8), torch.rand(16, 8, 8) + 0.5)
    scores, distilled = model.with_distilled(crops)
    assert torch.equal(scores, model(crops))
    assert torch.equal(distilled, model.distilled(crops))
    features = model.net.bridge(model.net.convolutions(model.normalise(crops)))
    torch.testing.assert_close(features, model.net.bridge.shift + model.net.bridge.scale * distilled)


RARE = [0] * 20 + [1] * 3 + [2]


def test_the_sampler_draws_every_class_as_often() -> None:
    stage = scratch(faces(RARE), Scores(), "scratch.balance=sampler")
    torch.manual_seed(0)
    drawn = torch.cat([stage.data.targets[stage.epoch_order()] for _ in range(50)]).bincount() / 1200
    assert torch.allclose(drawn, torch.full((3,), 1 / 3), atol=0.05)


def test_mixes_with_class_weights_by_hand() -> None:
    """The last two mixes, of a picture without a label and with one, do not count."""
    stage = scratch(faces([0, 0, 1, -1, 0]), Scores(), "scratch.balance=weights")
    stage.class_weights = torch.tensor([0.75, 1.5])
    scores = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.5, 0.5], [3.0, 1.0], [0.0, 2.0]])
    pictures, partners = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([2, 0, 1, 0, 3])
    share = torch.tensor([0.75, 1.0, 0.5, 0.9, 0.8])
    counted = [(0, 0, 0.75), (0, 1, 0.25), (1, 0, 1.0), (2, 1, 0.5), (2, 0, 0.5)]  # picture, class, share
    log_p, weight = scores.log_softmax(1), {0: 0.75, 1: 1.5}
    total = sum(-log_p[row, label] * part * weight[label] for row, label, part in counted)
    expected = total / sum(part * weight[label] for _, label, part in counted)
    batch = Batch(torch.zeros(5, 3, 36, 36), pictures, partners, share)
    assert stage.cross_entropy(scores, batch).item() == pytest.approx(float(expected), rel=1e-6)


def test_votes_are_learned_instead_of_the_label() -> None:
    """Cross-entropy with the shares of the votes; a picture without votes does not count, one without a label does."""
    data, votes = faces([0, 1, 1, -1]), torch.tensor([[0.6, 0.4], [0.1, 0.9], [0.0, 0.0], [0.5, 0.5]])
    data.votes = votes
    module = Scores()
    stage = scratch(data, module, "scratch.votes=true")
    assert stage.epoch_order().sort().values.tolist() == [0, 1, 3]
    scores = torch.tensor([[1.0, 0.0], [0.0, 2.0], [9.0, 0.0], [3.0, 1.0]])
    loss = stage.cross_entropy(scores, Batch(torch.zeros(4, 3, 36, 36), torch.arange(4)))
    expected = -(votes * scores.log_softmax(1)).sum() / 3
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("settings", [[], ["scratch.balance=weights"]])
def test_mixup_weights_both_labels_by_the_shares_of_the_pictures(settings: list[str]) -> None:
    module = Scores()
    stage = scratch(faces(RARE), module, "scratch.mixup=0.4", *settings)
    targets = stage.data.targets
    torch.manual_seed(5)
    loss = stage.loss(ALL)
    torch.manual_seed(5)
    crops = STILL(stage.data.stored(ALL))
    drawn = torch.distributions.Beta(0.4, 0.4).sample()
    share, partners = max(drawn, 1 - drawn), torch.randperm(24)
    assert 0.5 < share < 0.99
    torch.testing.assert_close(module.crops, share * crops + (1 - share) * crops[partners])
    scores = module(module.crops)
    weights = 24 / (3 * torch.tensor([20.0, 3.0, 1.0])) if settings else torch.ones(3)

    def mean_loss(labels: Tensor) -> Tensor:
        each = functional.cross_entropy(scores, labels, reduction="none")
        return (each * weights[labels]).sum() / weights[labels].sum()

    expected = share * mean_loss(targets) + (1 - share) * mean_loss(targets[partners])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    right = (scores.argmax(1) == targets).float().mean().item()
    assert stage.epoch_metrics()["accuracy"] == pytest.approx(right)


def test_the_live_teacher_sees_the_mixed_pictures() -> None:
    recipe = tiny.tiny_recipe("stage1.cached_views=0", "stage2.soft_labels=1", "stage2.mixup=0.4")
    stage = stage2(faces(), recipe)
    seen: list[Tensor] = []
    stage.teaching.teacher.face_net.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    torch.manual_seed(5)
    loss = stage.loss(ALL)
    (mixes,) = seen
    assert not any(torch.equal(mixes[0], crop) for crop in faces().stored(ALL).float())
    expected = soft_label_loss(stage.module(mixes), teacher()(mixes), 4.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_mixed_views_teach_the_labels_of_both_pictures(tmp_path: Path) -> None:
    data = faces()
    views = still_views(data, tmp_path, count=2, mixed=0.5)
    stage = stage2(data, tiny.tiny_recipe("stage2.soft_labels=0.25"), views)
    torch.manual_seed(5)
    loss = stage.loss(ALL)
    torch.manual_seed(5)
    index = views.draw(ALL)
    weights, partners = torch.from_numpy(views.weights[index]), torch.from_numpy(views.partners[index])
    assert (weights < 1).any()
    assert (weights == 1).any()
    scores = stage.module(torch.from_numpy(views.crops[index]).float())
    first, second = (
        functional.cross_entropy(scores, labels, reduction="none") for labels in (data.targets, data.targets[partners])
    )
    hard = (weights * first + (1 - weights) * second).mean()
    soft = soft_label_loss(scores, torch.from_numpy(views.scores[index]), 4.0)
    assert loss.item() == pytest.approx((0.75 * hard + 0.25 * soft).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("face_net.tap=fc6", r"face_net\.tap is 'fc6', expected a layer of tiny: early, late, pooled$"),
        ("face_net.name=nonsense", "no face net is called 'nonsense'"),
    ],
)
def test_a_face_net_or_layer_that_does_not_exist_is_refused(setting: str, message: str) -> None:
    assert stages.check(tiny.tiny_recipe()).name == "tiny"
    with pytest.raises(UserError, match=message):
        stages.check(tiny.tiny_recipe(setting))


def test_several_teachers_answer_with_their_mean() -> None:
    members = [teacher(), teacher()]
    with torch.no_grad():
        for parameter in members[1].parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    crops = STILL(faces().stored(ALL))
    scores, (features,) = AveragedTeacher(members).eval().with_taps(crops, ["late"])
    one, two = (member.with_taps(crops, ["late"]) for member in members)
    assert not torch.equal(one[0], two[0])
    torch.testing.assert_close(scores, (one[0] + two[0]) / 2)
    torch.testing.assert_close(features, (one[1][0] + two[1][0]) / 2)


@pytest.mark.parametrize(("there", "same_as"), [(True, "bf16-mixed"), (False, "32-true")])
def test_precision_auto_is_decided_by_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, same_as: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": there}, raising=False)
    data, weights = faces(), {}
    for precision in ("auto", "32-true", "bf16-mixed"):
        setting = context(f"precision={precision}", "stage2.soft_labels=0.5", "stage1.epochs=1", "stage2.epochs=1")
        weights[precision] = copy_of(stages.fn2en(data, teacher(), setting, tmp_path / precision))
    differing = [name for name in weights["auto"] if not weights["auto"][name].equal(weights[same_as][name])]
    assert not differing
    assert not weights["32-true"]["net.head.fc6.weight"].equal(weights["bf16-mixed"]["net.head.fc6.weight"])
