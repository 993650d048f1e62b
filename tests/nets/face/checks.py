"""What the tests of the face nets share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from facenet2expnet.errors import UserError
from facenet2expnet.nets import face


def refusal(name: str, weights: str | Path | None = None) -> str:
    """The message of the error that loading a face net raises."""
    with pytest.raises(UserError) as error:
        face.load(name, weights)
    return str(error.value)


def with_random_norms(name: str) -> face.FaceNet:
    """A generated face net whose vectors (biases, scales, running statistics) are random."""
    net = face.load(name, face.GENERATED)
    generator = torch.Generator().manual_seed(1)
    for key, value in net.state_dict().items():
        if value.ndim == 1:
            low, high = (0.5, 1.5) if key.endswith(("weight", "running_var")) else (-0.2, 0.2)
            value.uniform_(low, high, generator=generator)
    return net


def assert_taps_agree(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Both have the same taps, with values that agree to 1e-3, or to 1e-4 of the largest one."""
    assert set(ours) == set(expected)
    for tap, value in ours.items():
        assert value.std() > 0
        scale = expected[tap].abs().max().item()
        torch.testing.assert_close(value, expected[tap], rtol=1e-3, atol=1e-4 * scale)
