"""Which device is chosen, and which precision "auto" is, and what precisions compute in."""

from __future__ import annotations

import pytest
import torch

from facenet2expnet.device import autocast, choose_device, fitting_precision
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


@pytest.mark.parametrize(
    ("capabilities", "fitting"),
    [({"avx512_bf16": True}, "bf16-mixed"), ({"amx_bf16": True}, "bf16-mixed"), ({"avx512_f": True}, "32-true")],
)
def test_auto_is_bfloat16_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], fitting: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert fitting_precision(torch.device("cpu"), "auto") == fitting
    assert fitting_precision(torch.device("cpu"), "32-true") == "32-true"
    assert fitting_precision(torch.device("mps"), "auto") == "32-true"


def test_auto_is_32_bits_where_pytorch_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert fitting_precision(torch.device("cpu"), "auto") == "32-true"


def test_auto_on_cuda_asks_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, native = torch.device("cuda"), [True]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native[0])
    assert fitting_precision(cuda, "auto") == "bf16-mixed"
    native[0] = False
    assert fitting_precision(cuda, "auto") == "32-true"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert fitting_precision(cuda, "auto") == "auto", "a cluster's cards decide, not this machine"
