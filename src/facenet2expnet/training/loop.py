"""The one training loop. Fine-tuning, both stages and both baselines go through `fit`.

A stage says what its loss is, which parameters learn and on what schedule; it owns no loop of its own.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from facenet2expnet.errors import StageStopped
from facenet2expnet.nets.face.base import rest_frozen_norms
from facenet2expnet.nets.storage import read_tensors, write_tensors
from facenet2expnet.recipe import StageRecipe
from facenet2expnet.training.checkpoint import pack, unpack

SECONDS_BETWEEN_CHECKPOINTS = 20.0


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did. `accuracy` (share, training crops) and `r2` are None where the stage has no such thing.

    `inner` is the loss on the inner part, None where the stage has no patience.
    """

    stage: str
    epoch: int
    epochs: int
    loss: float
    accuracy: float | None
    r2: float | None
    lr: float
    seconds: float
    inner: float | None = None


Listener = Callable[[EpochRecord], None]


class Stage(Protocol):
    """What `fit` needs to know of a stage."""

    name: str
    module: nn.Module

    @property
    def recipe(self) -> StageRecipe:
        """How the stage learns."""

    def sample(self) -> Tensor:
        """Numbers of the examples of one epoch, in the order of training, drawn from the global random state."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What learns: {"params": [...], "lr_factor": float} a group."""

    def loss(self, examples: Tensor) -> Tensor:
        """The scalar loss of the examples of these numbers; keeps count of what `epoch_metrics` tells."""

    def epoch_metrics(self) -> dict[str, float]:
        """ "accuracy" or "r2" since the last call."""

    def inner_loss(self) -> float:
        """The loss on the training part's inner pictures, without augmentation; asked for with patience only."""


def fit(
    stage: Stage, folder: Path, *, seed: int, fabric: Fabric, listener: Listener | None = None
) -> list[EpochRecord]:
    """Train a stage to its end and leave its weights in `stage.module`.

    Every epoch's random state is set from (seed, stage, epoch), and `folder` keeps a checkpoint of a finished epoch:
    a training that was killed and is called again gives, on the CPU and with as many threads, the same weights bit
    for bit. A stage that had ended is read and not trained again. With patience the stage ends with the weights
    (averaged ones, where they are averaged) of the epoch whose inner loss is the lowest.

    Args:
        stage: what to train; its module is on the device already.
        folder: of this stage's checkpoint and final weights.
        seed: of the training.
        fabric: device and precision.
        listener: called after every epoch, also for those that were trained before an interruption; what it raises
            ends the training.
    Raises:
        StageStopped: If the loss stops being a number; the message says which numbers to change.
    """
    module, recipe = stage.module, stage.recipe
    finished, checkpoint = (
        folder / f"{stage.name}.safetensors",
        folder / f"{stage.name}.checkpoint.safetensors",
    )
    if finished.is_file():
        weights, facts = read_tensors(finished)
        module.load_state_dict(weights)
        return _told_again(facts["records"], listener)

    optimiser = _optimiser(stage)
    base_lrs = [group["lr"] for group in optimiser.param_groups]
    averaged = copy.deepcopy(module) if recipe.ema_decay else None
    records: list[EpochRecord] = []
    best: dict[str, Tensor] = {}
    if checkpoint.is_file():
        tensors, facts = read_tensors(checkpoint)
        best = unpack(tensors, facts["groups"], module, optimiser, averaged)
        records = _told_again(facts["records"], listener)
    last_write = time.monotonic()

    for epoch in range(len(records), recipe.epochs):
        if recipe.patience and len(records) - best_epoch(records) >= recipe.patience:
            break
        started = time.monotonic()
        torch.manual_seed(_epoch_seed(seed, stage.name, epoch))
        module.train()
        rest_frozen_norms(module)
        mean_loss = _steps(stage, epoch, optimiser, base_lrs, averaged, fabric)
        metrics = stage.epoch_metrics()
        inner = None
        if recipe.patience:
            inner, weights = _inner(stage, averaged, fabric)
            _check_loss(inner, stage, epoch)
            if not best or inner < min(_inner_losses(records)):
                best = weights
        lr, seconds = base_lrs[0] * lr_factor(recipe, epoch), time.monotonic() - started
        accuracy, r2 = metrics.get("accuracy"), metrics.get("r2")
        records.append(
            EpochRecord(stage.name, epoch + 1, recipe.epochs, mean_loss, accuracy, r2, lr, seconds, inner)
        )
        if listener:
            listener(records[-1])
        if time.monotonic() - last_write > SECONDS_BETWEEN_CHECKPOINTS:
            tensors, groups = pack(module, optimiser, averaged, best)
            write_tensors(checkpoint, tensors, {"groups": groups, "records": [asdict(r) for r in records]})
            last_write = time.monotonic()

    if best:
        module.load_state_dict(best)
    elif averaged is not None:
        module.load_state_dict(averaged.state_dict())
    write_tensors(finished, module.state_dict(), {"records": [asdict(r) for r in records]})
    checkpoint.unlink(missing_ok=True)
    return records


def lr_factor(recipe: StageRecipe, epoch: float) -> float:
    """The factor on every learning rate at a moment of the training.

    Args:
        recipe: with schedule, milestones, decay and warm-up.
        epoch: epochs done, with the fraction of the running one.
    """
    if epoch < recipe.warmup_epochs:
        return (epoch + 1 / 16) / (recipe.warmup_epochs + 1 / 16)
    if recipe.schedule == "step":
        return float(recipe.decay ** sum(epoch >= milestone for milestone in recipe.milestones))
    if recipe.schedule == "cosine":
        done = (epoch - recipe.warmup_epochs) / max(1, recipe.epochs - recipe.warmup_epochs)
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0


def ema_decay(recipe: StageRecipe, steps: int) -> float:
    """The share of the averaged weights that stays, after so many steps: it rises to the recipe's number.

    A constant 0.999 would leave 37 % of the first weights in the average of 1,000 steps.

    Source: TensorFlow's ExponentialMovingAverage with num_updates.
    """
    return min(recipe.ema_decay, (1 + steps) / (10 + steps))


def _steps(
    stage: Stage,
    epoch: int,
    optimiser: Optimizer,
    base_lrs: Sequence[float],
    averaged: nn.Module | None,
    fabric: Fabric,
) -> float:
    """An epoch's steps; the mean loss. Every loss is checked before anything learns from it."""
    module, recipe = stage.module, stage.recipe
    batches = _batches(stage.sample(), recipe.batch_size)
    total, seen = torch.zeros((), device=fabric.device), 0
    for step, examples in enumerate(batches):
        factor = lr_factor(recipe, epoch + step / len(batches))
        for group, base in zip(optimiser.param_groups, base_lrs, strict=True):
            group["lr"] = base * factor
        with fabric.autocast():
            loss = stage.loss(examples)
        _check_loss(loss.item(), stage, epoch)
        optimiser.zero_grad(set_to_none=True)
        fabric.backward(loss)
        if recipe.clip_norm:
            nn.utils.clip_grad_norm_(module.parameters(), recipe.clip_norm)
        optimiser.step()
        if averaged is not None:
            _average(averaged, module, ema_decay(recipe, epoch * len(batches) + step))
        total += loss.detach() * len(examples)
        seen += len(examples)
    return float(total) / seen


def best_epoch(records: Sequence[EpochRecord]) -> int:
    """The first epoch, counted from 1, with the lowest inner loss; 0 without one."""
    losses = _inner_losses(records)
    return losses.index(min(losses)) + 1 if losses else 0


def _inner_losses(records: Sequence[EpochRecord]) -> list[float]:
    return [record.inner for record in records if record.inner is not None]


@torch.no_grad()
def _inner(stage: Stage, averaged: nn.Module | None, fabric: Fabric) -> tuple[float, dict[str, Tensor]]:
    """The inner loss of the weights that the stage would end with now, and a copy of them."""
    module = stage.module.eval()
    learning = _copy(module)
    ending = learning if averaged is None else _copy(averaged)
    module.load_state_dict(ending)
    with fabric.autocast():
        loss = stage.inner_loss()
    module.load_state_dict(learning)
    return loss, ending


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def _optimiser(stage: Stage) -> Optimizer:
    """Weights of more than one dimension decay; biases and norms don't."""
    recipe = stage.recipe
    groups = []
    for group in stage.parameter_groups():
        lr = recipe.lr * group["lr_factor"]
        learning = [p for p in group["params"] if p.requires_grad]
        groups.append(
            {"params": [p for p in learning if p.ndim > 1], "lr": lr, "weight_decay": recipe.weight_decay}
        )
        groups.append({"params": [p for p in learning if p.ndim <= 1], "lr": lr, "weight_decay": 0.0})
    groups = [group for group in groups if group["params"]]
    if recipe.optimiser == "adamw":
        return AdamW(groups, lr=recipe.lr)
    return SGD(groups, lr=recipe.lr, momentum=recipe.momentum)


def _batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Batches of the epoch; a last one of a single example joins the one before it, for batch norm's sake."""
    batches = list(order.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _epoch_seed(seed: int, stage: str, epoch: int) -> int:
    return int.from_bytes(sha256(f"{seed}/{stage}/{epoch}".encode()).digest()[:7], "big")


@torch.no_grad()
def _average(averaged: nn.Module, module: nn.Module, decay: float) -> None:
    for slow, fast in zip(_state(averaged), _state(module), strict=True):
        if slow.dtype.is_floating_point:
            slow.lerp_(fast, 1 - decay)
        else:
            slow.copy_(fast)


def _state(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _check_loss(loss: float, stage: Stage, epoch: int) -> None:
    if not math.isfinite(loss):
        name, recipe = stage.name, stage.recipe
        advice = [f"lower the learning rate (--set {name}.lr={recipe.lr / 10:g})"]
        if not 0 < recipe.clip_norm <= 1:
            advice.append(f"clip the gradient (--set {name}.clip_norm=1)")
        if not recipe.warmup_epochs and recipe.epochs > 1:
            advice.append(f"let the rate rise first (--set {name}.warmup_epochs=1)")
        raise StageStopped(f"{name}: the loss of epoch {epoch + 1} is {loss}; {', or '.join(advice)}")


def _told_again(records: list[dict[str, Any]], listener: Listener | None) -> list[EpochRecord]:
    told = [EpochRecord(**record) for record in records]
    for record in told:
        if listener:
            listener(record)
    return told
