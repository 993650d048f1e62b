"""The identity-adversarial head: gradients by hand, who counts, what it does to features, resuming, what is kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

import tiny
from facenet2expnet.analysis.layers import all_responses
from facenet2expnet.analysis.probes import identity_probe
from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.recipe import AugmentRecipe
from facenet2expnet.training import loop, stages
from facenet2expnet.training.adversary import WithAdversary, reverse_gradient
from facenet2expnet.training.augment import Augment
from facenet2expnet.training.classification import Classification
from facenet2expnet.training.loop import EpochRecord
from facenet2expnet.training.stages import Setting
from facenet2expnet.training.teacher import TrainingPart

pytestmark = pytest.mark.usefixtures("tiny_face_net")
PERSONS = 6
CALM = (
    "augment.erasing=0", "augment.brightness=0", "augment.zoom=0", "augment.rotation_deg=0", "expnet.dropout=0",
)  # fmt: skip


@pytest.fixture
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def faces(pictures: int = 72) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures whose upper half shows the class by its colour, and whose lower half the person by its grey."""
    rng = np.random.default_rng(3)
    targets, subjects = np.arange(pictures) % 3, np.arange(pictures) // 3 % PERSONS
    pixels = rng.integers(0, 40, (pictures, 36, 36, 3), dtype=np.uint8)
    pixels[np.arange(pictures), :18, :, targets] += 120
    pixels[:, 18:] += (subjects * 40).astype(np.uint8)[:, None, None, None]
    return pixels, targets, subjects


def make_part(subjects: np.ndarray | None = None) -> TrainingPart:
    pixels, targets, known = faces()
    return TrainingPart(
        pixels, targets, 3, torch.device("cpu"), subjects=known if subjects is None else subjects
    )


def expression_net() -> ExpressionClassifier:
    torch.manual_seed(0)
    net = ExpNet(3, input_px=32, bridge_chw=(16, 8, 8), width=0.1, hidden=16, dropout=0.5, batch_norm=True)
    return ExpressionClassifier(net, (127.5, 127.5, 127.5), 64.0)


def test_the_gradient_is_turned_round() -> None:
    features = torch.tensor([1.0, -2.0], requires_grad=True)
    turned = reverse_gradient(features, 0.5)
    assert turned.equal(features)
    (turned * torch.tensor([3.0, 4.0])).sum().backward()
    assert features.grad is not None
    assert features.grad.tolist() == [-1.5, -2.0]


def test_the_hidden_layer_is_what_the_scores_are_read_from() -> None:
    model = expression_net().eval()
    crops = torch.rand(4, 3, 32, 32) * 255
    scores, hidden = model.with_hidden(crops)
    assert scores.equal(model(crops))
    assert hidden.shape == (4, 16)
    assert torch.allclose(model.net.head.scores(hidden), scores)
    assert (hidden >= 0).all()


def test_the_network_climbs_the_adversarys_loss_that_the_adversary_descends() -> None:
    part, factor = make_part(), 0.3
    model = expression_net().eval()  # no dropout, so that all losses below see the same
    opposed = WithAdversary(model, PERSONS, factor)
    augment = Augment(AugmentRecipe(flip=0.0), 36)
    stage = Classification("stage2", tiny.tiny_recipe().stage2, opposed, part, augment, [])
    examples = torch.arange(12)
    crops = part.stored(examples).float()
    expression = functional.cross_entropy(model(crops), part.targets[examples])
    hidden = model.with_hidden(crops)[1]
    assert part.subjects is not None
    identity = functional.cross_entropy(opposed.adversary(hidden), part.subjects[examples])
    net, head = list(model.parameters()), list(opposed.adversary.parameters())
    wanted = torch.autograd.grad(expression - factor * identity, net, retain_graph=True)
    wanted_of_head = torch.autograd.grad(identity, head)
    loss = stage.loss(examples)
    assert loss.item() == pytest.approx(expression.item(), rel=1e-6)
    loss.backward()
    for parameter, gradient in zip([*net, *head], [*wanted, *wanted_of_head], strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)


class Answers(nn.Module):
    """Fixed scores of classes and persons, whatever the picture."""

    def __init__(self, scores: torch.Tensor, persons: torch.Tensor) -> None:
        super().__init__()
        self.scores, self.persons = scores, nn.Parameter(persons)

    def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.scores, self.persons


def test_an_unknown_person_does_not_count() -> None:
    subjects = faces()[2]
    subjects[4:] = -1
    persons = torch.randn(8, PERSONS)
    stage = Classification(
        "stage2", tiny.tiny_recipe().stage2, Answers(torch.randn(8, 3), persons), make_part(subjects),
        Augment(AugmentRecipe(flip=0.0), 36), [],
    )  # fmt: skip
    stage.loss(torch.arange(8)).backward()
    expected = persons.clone().requires_grad_()
    functional.cross_entropy(expected[:4], torch.from_numpy(subjects[:4])).backward()
    assert torch.allclose(stage.module.persons.grad, expected.grad, atol=1e-7)
    nobody = make_part(np.full(72, -1))
    stage.part = nobody
    stage.module.persons.grad = None
    assert torch.isfinite(stage.loss(torch.arange(8)))


def test_a_blend_counts_for_both_persons() -> None:
    part, persons = make_part(), torch.randn(2, PERSONS)
    views: Any = SimpleNamespace(
        crops=np.zeros((72, 1, 3, 32, 32), np.uint8),
        scores=np.zeros((72, 1, 3), np.float32),
        partners=np.roll(np.arange(72), 5)[:, None],
        weights=np.full((72, 1), 0.75, np.float32),
    )
    views.draw = lambda examples: (examples.numpy(), np.zeros(len(examples), np.int64))
    stage = Classification(
        "stage2", tiny.tiny_recipe("stage2.soft_labels=0.5").stage2, Answers(torch.randn(2, 3), persons), part,
        Augment(AugmentRecipe(), 32), [], views,
    )  # fmt: skip
    examples = torch.tensor([9, 20])
    stage.loss(examples).backward()
    assert part.subjects is not None
    expected = persons.clone().requires_grad_()
    first = functional.cross_entropy(expected, part.subjects[examples])
    second = functional.cross_entropy(expected, part.subjects[examples - 5])
    (0.75 * first + 0.25 * second).backward()
    assert torch.allclose(stage.module.persons.grad, expected.grad, atol=1e-7)


def test_features_lose_the_person_and_keep_the_class(fabric: Fabric, tmp_path: Path) -> None:
    part = make_part()
    pixels, targets, subjects = faces()
    read = {}
    for weight in (0, 0.3):
        recipe = tiny.tiny_recipe(
            *CALM, "scratch.epochs=40", "scratch.lr=0.003", f"scratch.adversarial={weight}"
        )
        model = stages.from_scratch(part, Setting(recipe, 0, fabric), tmp_path / f"{weight}")
        assert not any("adversary" in name for name in model.state_dict())
        features = all_responses(model, pixels, "fc6", 32)
        read[weight] = identity_probe(features, subjects.astype(str), None).accuracy
        crops = torch.from_numpy(pixels[:, 2:34, 2:34]).permute(0, 3, 1, 2).float()
        assert (model(crops).argmax(1).numpy() == targets).mean() > 0.9
    assert read[0.3] < read[0] - 0.1


def test_a_stage_that_was_stopped_goes_on_bit_for_bit(
    fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    part = make_part()
    recipe = tiny.tiny_recipe("stage2.adversarial=0.5", "stage2.epochs=3", "stage2.ema_decay=0.5")

    def run(folder: Path, stop_after: int | None) -> None:
        def listen(record: EpochRecord) -> None:
            if record.stage == "stage2" and record.epoch == stop_after:
                raise KeyboardInterrupt

        setting = Setting(recipe, 0, fabric, listen)
        teacher = stages.fine_tune(part, Setting(recipe, 0, fabric), folder)
        stages.fn2en(part, teacher, setting, folder)

    run(tmp_path / "whole", None)
    for stop in (1, 3):  # before the first checkpoint, and before the last
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / f"{stop}", stop)
        run(tmp_path / f"{stop}", None)
        found, whole = (load_file(tmp_path / name / "stage2.safetensors") for name in (f"{stop}", "whole"))
        assert any(name.startswith("adversary.") for name in whole)
        assert [name for name in whole if not whole[name].equal(found[name])] == []
