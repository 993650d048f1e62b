"""The one training loop. Fine-tuning, both stages and both baselines go through `fit`.

A stage says what its loss is, which parameters learn and on what schedule; it has no loop of its own.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from facenet2expnet.device import autocast
from facenet2expnet.errors import StageStopped
from facenet2expnet.nets.face.base import rest_frozen_norms
from facenet2expnet.nets.storage import read_tensors, write_tensors
from facenet2expnet.recipe import StageRecipe
from facenet2expnet.training import checkpoint

log = logging.getLogger(__name__)

SECONDS_BETWEEN_CHECKPOINTS = 20.0
STEPS_BETWEEN_CHECKS = 20
"""The loss is read every so many steps: reading it waits for the device."""


@dataclass(frozen=True)
class EpochRecord:
    """One epoch. `accuracy` (share, training crops), `r2` and `val_loss` are None for stages that have none."""

    stage: str
    epoch: int
    epochs: int
    loss: float
    accuracy: float | None
    r2: float | None
    lr: float
    seconds: float
    val_loss: float | None = None


EpochCallback = Callable[[EpochRecord], None]


class Stage(Protocol):
    """What `fit` needs to know of a stage.

    `module` is what learns, in `parameter_groups` of {"params": [...], "lr_factor": float}; `recipe` says how.
    `epoch_order` draws the numbers of an epoch's examples, in the order of training, from the global random state.
    `loss` is the scalar loss of the examples of these numbers. `epoch_metrics` gives "accuracy" or "r2" since the last
    call. `validation_loss` is that of the validation part, without augmentation; it is called with patience only.
    """

    name: str

    @property
    def module(self) -> nn.Module: ...
    @property
    def recipe(self) -> StageRecipe: ...
    def epoch_order(self) -> Tensor: ...
    def parameter_groups(self) -> list[dict[str, Any]]: ...
    def loss(self, examples: Tensor) -> Tensor: ...
    def epoch_metrics(self) -> dict[str, float]: ...
    def validation_loss(self) -> float: ...


def fit(
    stage: Stage,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    precision: str = "32-true",
    on_epoch: EpochCallback | None = None,
) -> list[EpochRecord]:
    """Train a stage to its end and leave its weights in `stage.module`.

    The random state of every epoch is set from (seed, stage, epoch), and `folder` keeps a checkpoint of a finished
    epoch: a training that was killed and is called again gives, on the CPU and with as many threads, the same weights
    bit for bit. A finished stage is read, not trained again. With patience the stage ends with the weights of the
    epoch with the lowest validation loss.

    Args:
        stage: what to train; its module is on the device already.
        folder: of this stage's checkpoint and final weights.
        seed: of the training.
        device, precision: see `facenet2expnet.device`.
        on_epoch: called after every epoch, also for those trained before an interruption.
    Raises:
        StageStopped: If the loss is no longer finite; the message says which numbers to change.
    """
    module, recipe = stage.module, stage.recipe
    finished, unfinished = (folder / f"{stage.name}{ending}" for ending in (".safetensors", ".checkpoint.safetensors"))
    if finished.is_file():
        weights, metadata = read_tensors(finished)
        module.load_state_dict(weights)
        unfinished.unlink(missing_ok=True)
        return _replay(metadata["records"], on_epoch)

    optimiser = _optimiser(stage)
    base_lrs = [group["lr"] for group in optimiser.param_groups]
    records: list[EpochRecord] = []
    best: dict[str, Tensor] = {}
    if unfinished.is_file():
        tensors, metadata = read_tensors(unfinished)
        best = checkpoint.unpack(tensors, metadata["groups"], module, optimiser)
        records = _replay(metadata["records"], on_epoch)
        log.info("%s continues after epoch %d of %d", stage.name, len(records), recipe.epochs)
    last_write = time.monotonic()

    for epoch in range(len(records), recipe.epochs):
        if recipe.patience and len(records) - best_epoch(records) >= recipe.patience:
            break
        started = time.monotonic()
        torch.manual_seed(int.from_bytes(sha256(f"{seed}/{stage.name}/{epoch}".encode()).digest()[:7], "big"))
        module.train()
        rest_frozen_norms(module)
        loss = _train_epoch(stage, epoch, optimiser, base_lrs, device, precision)
        metrics = stage.epoch_metrics()
        val_loss, weights = None, best
        if recipe.patience:
            val_loss, weights = _validate(stage, device, precision)
            _check_finite([val_loss], stage, epoch, "the validation loss")
        lr, seconds = base_lrs[0] * lr_factor(recipe, epoch), time.monotonic() - started
        accuracy, r2 = metrics.get("accuracy"), metrics.get("r2")
        records.append(EpochRecord(stage.name, epoch + 1, recipe.epochs, loss, accuracy, r2, lr, seconds, val_loss))
        if best_epoch(records) == epoch + 1:
            best = weights
        if on_epoch:
            on_epoch(records[-1])
        if time.monotonic() - last_write > SECONDS_BETWEEN_CHECKPOINTS:
            tensors, groups = checkpoint.pack(module, optimiser, best)
            write_tensors(unfinished, tensors, {"groups": groups, "records": [asdict(r) for r in records]})
            last_write = time.monotonic()

    if best:
        module.load_state_dict(best)
    write_tensors(finished, module.state_dict(), {"records": [asdict(r) for r in records]})
    unfinished.unlink(missing_ok=True)
    return records


def _train_epoch(
    stage: Stage,
    epoch: int,
    optimiser: Optimizer,
    base_lrs: Sequence[float],
    device: torch.device,
    precision: str,
) -> float:
    """Take an epoch's steps; give the mean loss. Nothing waits for the device but a look at the losses now and then."""
    module, recipe = stage.module, stage.recipe
    batches = _batches(stage.epoch_order(), recipe.batch_size)
    total = torch.zeros((), device=device)
    losses: list[Tensor] = []
    for step, examples in enumerate(batches):
        factor = lr_factor(recipe, epoch + step / len(batches))
        for group, base in zip(optimiser.param_groups, base_lrs, strict=True):
            group["lr"] = base * factor
        with autocast(device, precision):
            loss = stage.loss(examples)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.clip_norm:
            nn.utils.clip_grad_norm_(module.parameters(), recipe.clip_norm)
        optimiser.step()
        total += loss.detach() * len(examples)
        losses.append(loss.detach())
        if len(losses) == STEPS_BETWEEN_CHECKS or step + 1 == len(batches):
            first = step + 2 - len(losses)
            _check_finite(torch.stack(losses).tolist(), stage, epoch, "the loss", first)
            losses = []
    return float(total) / sum(map(len, batches))


def lr_factor(recipe: StageRecipe, epoch: float) -> float:
    """Return the factor on every learning rate at a moment of the training.

    Args:
        recipe: with schedule, milestones, decay and warm-up.
        epoch: epochs done, with the fraction of the current one.
    """
    if epoch < recipe.warmup_epochs:
        return (epoch + 1 / 16) / (recipe.warmup_epochs + 1 / 16)
    if recipe.schedule == "step":
        return float(recipe.decay ** sum(epoch >= milestone for milestone in recipe.milestones))
    if recipe.schedule == "cosine":
        done = (epoch - recipe.warmup_epochs) / max(1, recipe.epochs - recipe.warmup_epochs)
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0


def best_epoch(records: Sequence[EpochRecord]) -> int:
    """Return the first epoch, counted from 1, with the lowest validation loss; 0 without one."""
    losses = [record.val_loss for record in records if record.val_loss is not None]
    return losses.index(min(losses)) + 1 if losses else 0


@torch.no_grad()
def _validate(stage: Stage, device: torch.device, precision: str) -> tuple[float, dict[str, Tensor]]:
    """Return the validation loss of the weights as they are now, and a copy of them."""
    module = stage.module.eval()
    with autocast(device, precision):
        loss = stage.validation_loss()
    return loss, {name: value.clone() for name, value in module.state_dict().items()}


def _optimiser(stage: Stage) -> Optimizer:
    """Weights of more than one dimension decay; biases and norms don't."""
    recipe = stage.recipe
    groups = []
    for group in stage.parameter_groups():
        lr = recipe.lr * group["lr_factor"]
        learning = [p for p in group["params"] if p.requires_grad]
        groups.append({"params": [p for p in learning if p.ndim > 1], "lr": lr, "weight_decay": recipe.weight_decay})
        groups.append({"params": [p for p in learning if p.ndim <= 1], "lr": lr, "weight_decay": 0.0})
    groups = [group for group in groups if group["params"]]
    if recipe.optimiser == "adamw":
        return AdamW(groups, lr=recipe.lr)
    return SGD(groups, lr=recipe.lr, momentum=recipe.momentum)


def _batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Cut an order into batches; a last one of a single example joins the one before it, for batch norm's sake."""
    batches = list(order.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _check_finite(losses: Sequence[float], stage: Stage, epoch: int, what: str, first_step: int = 0) -> None:
    """Stop a stage whose loss is not finite; `first_step` is the step of the first loss, 0 if there are no steps."""
    for number, loss in enumerate(losses):
        if math.isfinite(loss):
            continue
        name, recipe = stage.name, stage.recipe
        where = f"epoch {epoch + 1}" + (f", step {first_step + number}" if first_step else "")
        advice = [f"lower the learning rate (--set {name}.lr={recipe.lr / 10:g})"]
        if not 0 < recipe.clip_norm <= 1:
            advice.append(f"clip the gradient (--set {name}.clip_norm=1)")
        if not recipe.warmup_epochs and recipe.epochs > 1:
            advice.append(f"warm the rate up (--set {name}.warmup_epochs=1)")
        raise StageStopped(f"{name}: {what} of {where} is {loss}; {', or '.join(advice)}")


def _replay(records: list[dict[str, Any]], on_epoch: EpochCallback | None) -> list[EpochRecord]:
    replayed = [EpochRecord(**record) for record in records]
    for record in replayed:
        if on_epoch:
            on_epoch(record)
    return replayed
