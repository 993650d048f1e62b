"""The estimator on rows of numbers, so that scikit-learn's checks, which know no pictures, can be run on it."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

from facenet2expnet.deploy.estimator import ExpressionClassifier

SIDE = 32


class RowClassifier(ExpressionClassifier):
    """Each number of a row becomes a vertical stripe of a picture; the larger, the brighter."""

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        super().fit(pictures(validate_data(self, X)), y, groups)
        validate_data(self, X)  # n_features_in_ is that of the rows again
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return super().predict_proba(pictures(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = tags.input_tags.string = False
        return tags


def pictures(rows: np.ndarray) -> np.ndarray:
    """(N, F) numbers -> (N, SIDE, SIDE, 3) uint8."""
    stripes = rows[:, np.arange(SIDE) * rows.shape[1] // SIDE]
    grey = np.rint(127.5 + 127.5 * np.tanh(stripes / 4)).astype(np.uint8)
    return np.broadcast_to(grey[:, None, :, None], (len(rows), SIDE, SIDE, 3)).copy()
