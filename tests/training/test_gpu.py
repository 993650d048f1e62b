"""Two steps of every stage on a CUDA device against the CPU: `pytest -m gpu` on a machine that has one.

FN2EN_TEST_DEVICE=cpu runs the same code without one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_training import CPU, context, faces
from torch import nn

from facenet2expnet.device import choose_device
from facenet2expnet.nets.storage import read_tensors
from facenet2expnet.training import loop, stages
from facenet2expnet.training.loop import EpochRecord
from facenet2expnet.training.stages import TrainingContext
from facenet2expnet.training.teacher import TrainingSet

DEVICE = torch.device(os.environ.get("FN2EN_TEST_DEVICE", "cuda"))
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("tiny_face_net"),
    pytest.mark.skipif(DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="no CUDA device"),
]

STAGES = ("fine_tune", "stage1", "stage2", "scratch")
SETTINGS = [f"augment.{change}=0" for change in ("flip", "rotation_deg", "zoom", "brightness", "erasing")]
SETTINGS += ["crop.crop_px=36", "expnet.dropout=0", "face_net.head_dropout=0"]
"""Nothing is drawn on the device, whose random numbers are not the CPU's."""
for stage in STAGES:
    SETTINGS += [
        f"{stage}.epochs=1",
        f"{stage}.batch_size=12",
        f"{stage}.patience=1",
    ]
    SETTINGS += [f"{stage}.optimiser=sgd", f"{stage}.lr=0.01", f"{stage}.schedule=constant"]

Train = Callable[[TrainingSet, TrainingContext, Path], nn.Module]


def fn2en(data: TrainingSet, setting: TrainingContext, folder: Path) -> nn.Module:
    teacher = stages.pretrained_teacher(setting.recipe, 3, setting.device)
    if setting.recipe.stage2.soft_labels:
        teacher = stages.fine_tune(data, setting, folder / "teacher")
    return stages.fn2en(data, teacher, setting, folder)


def train(
    method: Train, folder: Path, device: torch.device, settings: list[str]
) -> tuple[nn.Module, list[EpochRecord]]:
    """Train on faces of which a quarter has no label, with a validation part."""
    records: list[EpochRecord] = []
    data = faces([0, 1, 2, -1] * 6, device=device, validation=faces([0, 1, 2], seed=2, device=device))
    model = method(data, context(*SETTINGS, *settings, records=records, device=device), folder)
    assert {value.device.type for value in model.state_dict().values()} == {device.type}
    return model, records


CASES: dict[str, tuple[Train, list[str]]] = {
    "fine-tune": (stages.fine_tune, ["fine_tune.mixup=0.4", "fine_tune.balance=weights"]),
    "scratch": (stages.from_scratch, ["scratch.balance=sampler"]),
    "stage 1, live": (
        fn2en,
        [
            *("stage1.cached_views=0", 'stage1.losses=[{loss="p-norm"}]', "stage1.lr=1e-5"),
            "stage2.standardised_input=false",
        ],
    ),
    "stage 1, cached": (fn2en, ["stage1.cached_views=2", "stage1.mixed_views=0.5"]),
    "stage 1, rkd": (fn2en, ['stage1.losses=[{loss="standardised-l2"}, {loss="rkd", weight=0.5}]']),
    "stage 2, cached soft labels": (fn2en, ["stage2.soft_labels=0.5", "stage2.distil_weight=0.5"]),
    "stage 2, live soft labels": (
        fn2en,
        ["stage2.soft_labels=0.5", "stage2.distil_weight=0.5", "stage1.cached_views=0", "stage2.mixup=0.4"],
    ),
    "stage 2, frozen norms": (fn2en, ["stage2.batch_norm=frozen"]),
}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("case", CASES)
def test_two_steps_agree_with_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, precision: str
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    method, settings = CASES[case]
    settings = [*settings, f"precision={precision}"]
    expected, on_cpu = train(method, tmp_path / "cpu", CPU, settings)
    model, on_device = train(method, tmp_path / "device", DEVICE, settings)
    tolerance = 1e-3 if precision == "32-true" else 5e-2
    for found, other in zip(on_device, on_cpu, strict=True):
        assert (found.stage, found.epoch) == (other.stage, other.epoch)
        assert found.loss == pytest.approx(other.loss, rel=tolerance), found.stage
        if precision == "32-true" or found.stage != "stage1":  # few pictures: the smallest deviations rule its targets
            assert found.val_loss == pytest.approx(other.val_loss, rel=10 * tolerance), found.stage
        if other.r2 is not None:
            assert found.r2 == pytest.approx(other.r2, rel=tolerance, abs=tolerance), found.stage
    for (name, weights), other in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(weights.cpu(), other, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_stage_resumes_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimiser: str) -> None:
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    settings = [*SETTINGS, "scratch.epochs=3", "scratch.patience=3", f"scratch.optimiser={optimiser}"]
    data = faces(device=DEVICE, validation=faces([0, 1, 2], seed=2, device=DEVICE))
    stages.from_scratch(data, context(*settings, device=DEVICE), tmp_path / "whole")

    def stop(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        stages.from_scratch(data, context(*settings, device=DEVICE, on_epoch=stop), tmp_path / "stopped")
    assert (tmp_path / "stopped" / "scratch.checkpoint.safetensors").is_file()
    stages.from_scratch(data, context(*settings, device=DEVICE), tmp_path / "stopped")
    whole, resumed = (read_tensors(tmp_path / n / "scratch.safetensors")[0] for n in ("whole", "stopped"))
    for name, weights in resumed.items():
        torch.testing.assert_close(weights, whole[name], rtol=1e-3, atol=1e-3, msg=name)


def test_auto_chooses_the_device() -> None:
    assert choose_device().type == DEVICE.type
    assert choose_device(DEVICE.type) == DEVICE
