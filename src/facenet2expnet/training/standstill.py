"""A stage 1 that learns nothing stops early, and says which number to change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from facenet2expnet.errors import StageStopped
from facenet2expnet.recipe import RegressRecipe
from facenet2expnet.training.loop import EpochRecord, Listener, best_epoch
from facenet2expnet.training.losses import (
    FitNets,
    ObjectiveModule,
    PhiS,
    PNorm,
    SmoothL1,
    StandardisedL2,
    WeightedSum,
)
from facenet2expnet.training.teacher import Note

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
    """The terms that count; one of weight 0 makes nothing small."""
    return [term for _, term in objective.weighed()] if isinstance(objective, WeightedSum) else [objective]


class Standstill:
    """A listener of stage 1 that stops it when it stands still, and tells when it ends at an R2 of nothing.

    It looks once, when the warm-up and max(3, a quarter of the epochs) further ones are over. It stops the stage
    when R2 is below 0.005 and has, since the warm-up, not come a hundredth of the way from where it was to there. A
    student that starts far below the mean face and climbs slowly goes on, however low it still is; so does one that
    has left 0 and rises. Where the objective need not raise R2, the loss is judged instead: it stops the stage when
    in no epoch since the warm-up the loss was a hundredth below what it was then; a rate of nothing was seen to
    move a cosine loss by a five-hundredth, from one draw of crops to the next. Whoever has come no further than an R2
    of nothing by the end is told of, and stage 2 goes on. Stages of fewer than four epochs are left alone.

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
        self.seen: list[EpochRecord] = []

    def __call__(self, record: EpochRecord) -> None:
        """Pass the epoch on, and look.

        Raises:
            StageStopped: If the stage stands still, with the numbers to change.
        """
        if self.listener:
            self.listener(record)
        if self.began_at <= record.epoch <= self.looks_at:
            self.seen.append(record)
        if record.epoch == self.looks_at and self.recipe.epochs >= LEAST_EPOCHS:
            self._look(self.seen[0], self.seen[-1])

    def ended(self, records: Sequence[EpochRecord]) -> None:
        """Tell of a stage that ended with nothing explained, given all its epochs."""
        longer = ""
        if len(records) == self.recipe.epochs:  # and not by patience
            longer = f"Give it more epochs (--set stage1.epochs={2 * self.recipe.epochs}), or "
        tell_of_nothing(records, self.objective, longer + self._advice(worse=False), self.note)

    def _look(self, began: EpochRecord, now: EpochRecord) -> None:
        if began.r2 is None or now.r2 is None:
            return
        if shows_in_r2(self.objective):
            way, moved = NOTHING - began.r2, now.r2 - began.r2
            stands = now.r2 < NOTHING and moved < SHARE_OF_THE_WAY * way
            worse = moved < -max(way, FALL)
            found = f"R2 is {now.r2:.4g}", f"{began.r2:.4g}", " (0 is the mean face)"
        else:
            stands = min(record.loss for record in self.seen[1:]) > (1 - SHARE_OF_THE_WAY) * began.loss
            worse = now.loss > (1 + FALL) * began.loss
            found = f"the loss is {now.loss:.6g}", f"{began.loss:.6g}", ""
        if stands:
            raise StageStopped(
                f"{now.stage}: {found[0]} after {now.epoch} of {now.epochs} epochs and was {found[1]} after epoch "
                f"{began.epoch}{found[2]}: it learns nothing; {self._advice(worse=worse)}"
            )

    def _advice(self, *, worse: bool) -> str:
        """The rate first, then what makes the target easier to reach."""
        recipe, lr = self.recipe, self.recipe.lr
        if worse:
            warmup = recipe.warmup_epochs + max(1, recipe.epochs // 10)
            clipped = 0 < recipe.clip_norm <= 1
            steadier = (
                f"warm it up for longer (--set stage1.warmup_epochs={warmup})"
                if clipped
                else "clip the gradient (--set stage1.clip_norm=1)"
            )
            return f"lower the rate (--set stage1.lr={lr / 10:g}) or {steadier}"
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


def tell_of_nothing(
    records: Sequence[EpochRecord], objective: ObjectiveModule, advice: str, note: Note | None
) -> None:
    """Tell of a stage whose weights, those of its last epoch or with patience of its best, explain nothing.

    Args:
        records: of all its epochs.
        objective: nothing is said of one that need not raise R2.
        advice: what to change, without a full stop.
        note: told in two sentences.
    """
    kept = records[best_epoch(records) - 1]
    if note is None or kept.r2 is None or kept.epochs < LEAST_EPOCHS or not shows_in_r2(objective):
        return
    if kept.r2 < NOTHING:
        note(
            f"{kept.stage} ended at an R2 of {kept.r2:.4g} (0 is the mean face): nothing of the face net's layer was "
            f"learned. {advice[0].upper()}{advice[1:]}."
        )
