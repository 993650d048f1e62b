"""Which device is chosen, and what the two precisions compute in."""

from __future__ import annotations

import pytest
import torch

from facenet2expnet.device import autocast, choose_device
from facenet2expnet.errors import UserError


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device() == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="device is 'cuda', but PyTorch sees no such GPU here; use cpu or auto"):
        choose_device("cuda")
    with pytest.raises(UserError, match="device is 'tpu', expected one of auto, cpu, cuda, mps"):
        choose_device("tpu")


def test_auto_prefers_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_a_precision_is_that_of_forward_passes(precision: str, dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(2, 2)
    with autocast(torch.device("cpu"), precision):
        assert layer(torch.ones(1, 2)).dtype == dtype
    assert layer.weight.dtype == torch.float32
