"""The objectives that a student can be trained with; a recipe names them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from facenet2expnet.errors import UserError
from facenet2expnet.training.losses.base import Objective, ObjectiveModule, Restoration, WeightedSum
from facenet2expnet.training.losses.expression import Term, parse
from facenet2expnet.training.losses.logits import SoftLabels, soft_label_loss
from facenet2expnet.training.losses.phi_s import IsotropicStatistics, PhiS, phi_s_loss
from facenet2expnet.training.losses.regression import (
    Cosine,
    FitNets,
    PNorm,
    SmoothL1,
    StandardisedL2,
    cosine_loss,
    fitnets_loss,
    p_norm_loss,
    smooth_l1_loss,
    standardised_l2_loss,
)
from facenet2expnet.training.losses.relations import (
    SRD,
    AttentionTransfer,
    RelationalKD,
    attention_transfer_loss,
    rkd_angle_loss,
    rkd_distance_loss,
    srd_loss,
)
from facenet2expnet.training.losses.statistics import FeatureStatistics, RSquared, r_squared

REGISTRY: dict[str, type[ObjectiveModule]] = {
    "p-norm": PNorm,
    "standardised-l2": StandardisedL2,
    "smooth-l1": SmoothL1,
    "cosine": Cosine,
    "phi-s": PhiS,
    "srd": SRD,
    "attention-transfer": AttentionTransfer,
    "rkd": RelationalKD,
    "fitnets": FitNets,
    "soft-labels": SoftLabels,
}
"""Name in a recipe -> objective."""


def build(name: str, features: Iterable[Tensor] | None = None, **options: Any) -> ObjectiveModule:
    """Make an objective by its name.

    Args:
        name: a key of REGISTRY.
        features: the teacher's features of the training part, batch by batch; read only by those objectives
            that measure something on them (`needs_features`).
        options: the objective's own numbers, such as p or temperature.
    Raises:
        UserError: If there is no such objective, an option is not one of its own, or features are missing.
    """
    if name not in REGISTRY:
        raise UserError(f"there is no objective '{name}'; expected one of {', '.join(REGISTRY)}")
    kind = REGISTRY[name]
    if kind.needs_features and features is None:
        raise UserError(f"objective '{name}' measures the training part's features first; none were given")
    try:
        return kind.fit(features or (), **options)
    except TypeError as error:
        raise UserError(f"objective '{name}' can't be made from {options}: {error}") from error


def terms_of(expression: str) -> tuple[Term, ...]:
    """The terms of a sum such as `standardised-l2 + 0.5 * rkd(angle_weight=0)`, read strictly; see `parse`."""
    return parse(expression, REGISTRY)


def build_sum(expression: str, features: Iterable[Tensor] | None = None) -> WeightedSum:
    """Make a weighted sum of objectives; see `parse` for how it is written.

    Args:
        expression: such as `standardised-l2(per=channel) + 0.5 * attention-transfer`.
        features: as for build; at most one term reads them, as only one may have a space of its own.
    Raises:
        UserError: If it can't be read or summed, or features are missing.
    """
    terms = terms_of(expression)
    return WeightedSum([(term.weight, build(term.name, features, **term.options)) for term in terms])


__all__ = [
    "REGISTRY",
    "SRD",
    "AttentionTransfer",
    "Cosine",
    "FeatureStatistics",
    "FitNets",
    "IsotropicStatistics",
    "Objective",
    "ObjectiveModule",
    "PNorm",
    "PhiS",
    "RSquared",
    "RelationalKD",
    "Restoration",
    "SmoothL1",
    "SoftLabels",
    "StandardisedL2",
    "Term",
    "WeightedSum",
    "attention_transfer_loss",
    "build",
    "build_sum",
    "cosine_loss",
    "fitnets_loss",
    "p_norm_loss",
    "phi_s_loss",
    "r_squared",
    "rkd_angle_loss",
    "rkd_distance_loss",
    "smooth_l1_loss",
    "soft_label_loss",
    "srd_loss",
    "standardised_l2_loss",
    "terms_of",
]
