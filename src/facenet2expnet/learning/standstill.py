"""A stage 1 that learns nothing stops early, and says which number to change."""

from __future__ import annotations

from typing import Any

from facenet2expnet.errors import StageStopped
from facenet2expnet.learning.loop import EpochRecord, Listener
from facenet2expnet.learning.objectives import (
    FitNets,
    ObjectiveModule,
    PhiS,
    PNorm,
    SmoothL1,
    StandardisedL2,
    WeightedSum,
)
from facenet2expnet.learning.teacher import Note
from facenet2expnet.recipe import RegressRecipe

NOTHING = 0.005
"""An R2 below this explains nothing; 0 is the mean face."""

SHARE_OF_THE_WAY = 0.01
"""Whoever comes so far towards it in a quarter of the epochs is slow, but moves. At the paper's rate a bias of the
bridge alone takes some 20,000 steps for the way: a thousand pictures make 1,200 steps in a quarter of its epochs."""

FALL = 0.1
"""Whoever is twice as far from it as before, and farther by this at least, has too high a rate; less may be chance."""

LEAST_EPOCHS = 4
UNIT_BY_UNIT = (PNorm, StandardisedL2, SmoothL1, FitNets, PhiS)
MEAN_RATE = 1e-3
"""A rate under a mean that the shipped recipes learn with; what is advised is no less."""


def shows_in_r2(objective: ObjectiveModule) -> bool:
    """Whether an objective that falls has to raise R2: it compares the features unit by unit, at their own scale."""
    return any(isinstance(term, UNIT_BY_UNIT) for term in _terms(objective))


def _terms(objective: ObjectiveModule) -> list[Any]:
    return objective.terms if isinstance(objective, WeightedSum) else [objective]


class Standstill:
    """A listener of stage 1 that stops it when it stands still at an R2 of nothing, and tells when it ends there.

    It looks once, when the warm-up and max(3, a quarter of the epochs) further ones are over. It stops the stage
    when R2 is below 0.005 and has, since the warm-up, not come a hundredth of the way from where it was to there. A
    student that starts far below the mean face and climbs slowly goes on, however low it still is; so does one that
    has left 0 and rises. Whoever has come no further than an R2 of nothing by the last epoch is told of, and stage 2
    goes on. Stages of fewer than four epochs are left alone.

    Args:
        recipe: of the stage.
        objective: what the stage makes small.
        units: of the tapped layer, C * H * W.
        batch_norm: whether the student has any.
        listener: told of every epoch first.
        note: told in a sentence when the stage ends with nothing explained.
    """

    def __init__(
        self,
        recipe: RegressRecipe,
        objective: ObjectiveModule,
        units: int,
        *,
        batch_norm: bool,
        listener: Listener | None,
        note: Note | None = None,
    ) -> None:
        self.recipe, self.objective, self.units = recipe, objective, units
        self.batch_norm, self.listener, self.note = batch_norm, listener, note
        self.began_at = max(recipe.warmup_epochs, 1)
        self.looks_at = recipe.warmup_epochs + max(3, recipe.epochs // 4)
        self.began = 0.0

    def __call__(self, record: EpochRecord) -> None:
        """Pass the epoch on, and look.

        Raises:
            StageStopped: If the stage stands still, with the numbers to change.
        """
        if self.listener:
            self.listener(record)
        if record.r2 is None or self.recipe.epochs < LEAST_EPOCHS or not shows_in_r2(self.objective):
            return
        if record.epoch == self.began_at:
            self.began = record.r2
        way, moved = NOTHING - self.began, record.r2 - self.began
        if record.epoch == self.looks_at and record.r2 < NOTHING and moved < SHARE_OF_THE_WAY * way:
            raise StageStopped(
                f"{record.stage}: R2 is {record.r2:.4g} after {record.epoch} of {record.epochs} epochs and was "
                f"{self.began:.4g} after epoch {self.began_at} (0 is the mean face): it learns nothing; "
                f"{self._advice(falls=moved < -max(way, FALL))}"
            )

        if record.epoch == self.recipe.epochs and record.r2 < NOTHING and self.note:
            self.note(
                f"{record.stage} ended at an R2 of {record.r2:.4g} (0 is the mean face): nothing of the face net's "
                f"layer was learned. Give it more epochs (--set stage1.epochs={2 * record.epochs}), or "
                f"{self._advice(falls=False)}."
            )

    def _advice(self, *, falls: bool) -> str:
        """The rate first, then what makes the target easier to reach."""
        lr = self.recipe.lr
        if falls:
            return f"lower the rate (--set stage1.lr={lr / 10:g}) or clip the gradient (--set stage1.clip_norm=1)"
        terms = _terms(self.objective)
        summed = any(isinstance(term, PNorm) for term in terms)
        per_mean = self.units / 2 if summed else 1.0
        told = f", {lr * per_mean:.3g} under a mean" if summed else ""
        advice = [f"raise the rate ({lr:g}{told}; --set stage1.lr={max(10 * lr, MEAN_RATE / per_mean):.3g})"]
        if not self.batch_norm:
            advice.append("give the student batch norms (--set expnet.batch_norm=true)")
        if not any(isinstance(term, StandardisedL2) for term in terms):
            advice.append("standardise the target (--set stage1.objective=standardised-l2)")
        return ", or ".join(advice)
