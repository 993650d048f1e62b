"""An opponent that names the person from the features, and a gradient turned round, so that it comes to fail."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from facenet2expnet.nets.classifier import ExpressionClassifier

UNITS = 128
"""Hidden units of the opponent; with one layer only, identity could hide where a linear reader does not see it."""


class _Reversal(torch.autograd.Function):
    """The features as they are; their gradient times -factor."""

    @staticmethod
    def forward(context: Any, features: Tensor, factor: float) -> Tensor:
        context.factor = factor
        return features.view_as(features)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -context.factor * gradients[0], None


def reverse_gradient(features: Tensor, factor: float) -> Tensor:
    """The features, unchanged; what flows back through them is multiplied by `-factor`.

    Source: Ganin & Lempitsky, Unsupervised Domain Adaptation by Backpropagation, 2015, section 3.1.
    """
    reversed_: Tensor = _Reversal.apply(features, factor)
    return reversed_


class WithAdversary(nn.Module):
    """An expression net and, beside it, a head that names the training part's persons; both learn together.

    The head reads the hidden layer (fc6 after its ReLU), which is all that the class scores see: identity taken away
    there cannot come back behind it, and the reversed gradient reaches every layer before it. The head itself learns
    to name the person as well as it can. Source: Ganin & Lempitsky, 2015; with persons in the place of domains and a
    factor that stays the same from the first step to the last, where they let it rise.

    Args:
        model: the expression net; it is all that is kept after the training.
        persons: how many the head tells apart.
        factor: of the reversed gradient.
    """

    def __init__(self, model: ExpressionClassifier, persons: int, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor
        scores = model.net.get_submodule("head.scores")
        assert isinstance(scores, nn.Linear)
        self.adversary = nn.Sequential(
            nn.Linear(scores.in_features, UNITS), nn.ReLU(), nn.Linear(UNITS, persons)
        )

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in 0..255 -> class scores (B, K), and scores of the persons (B, P)."""
        scores, hidden = self.model.with_hidden(crops)
        return scores, self.adversary(reverse_gradient(hidden, self.factor))
