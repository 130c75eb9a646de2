"""Which products are allowed: as torch's setting says."""

import pytest
import torch

from rnnfast.backends import library
from rnnfast.backends.cuda import bridge, cuda, precision
from support import untyped


@pytest.fixture(autouse=True)
def _plain_settings():
    yield
    torch.set_float32_matmul_precision("highest")
    cuda.ops(torch.zeros(1))


@pytest.mark.parametrize(
    ("setting", "least"), [("highest", "FFMA"), ("high", "TF32"), ("medium", "TF32")]
)
def test_torch_decides(setting, least):
    torch.set_float32_matmul_precision(setting)
    assert precision.least_exact() == least


def test_what_is_more_exact_is_allowed_too():
    assert precision.is_allowed("FFMA", "FFMA")
    assert precision.is_allowed("2xFP16", "TF32")
    assert not precision.is_allowed("TF32", "2xFP16")
    assert all(precision.is_allowed(product, "TF32") for product in precision.EXACTNESS)


def test_the_library_is_told_once_of_each_change(monkeypatch):
    told = []
    monkeypatch.setattr(bridge, "set_least_exact", told.append)
    for setting in ("highest", "high", "high", "highest", "medium"):
        torch.set_float32_matmul_precision(setting)
        cuda.ops(torch.zeros(1))
    assert told == ["TF32", "FFMA", "TF32"]


@pytest.mark.parametrize("setting", ["highest", "high"])
def test_torch_compile_takes_the_backend_whole(setting, monkeypatch):
    """On operators that have shapes for tracing, which the emulated ones do not."""
    assert library.load_error() == ""
    torch.set_float32_matmul_precision(setting)
    monkeypatch.setattr(torch.ops, "rnnfast_emulated", torch.ops.rnnfast, raising=False)
    x, W_hh, h0 = torch.randn(5, 2, 4), torch.randn(4, 4), torch.randn(2, 4)

    def states(x):
        return untyped.rnn_forward(cuda, x, None, W_hh, None, h0, False)[0]

    compiled = torch.compile(states, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), states(x))
