"""Which products are allowed: by torch's setting, or by RNNFAST_CUDA_PRODUCT in its place."""

import pytest
import torch

from rnnfast.backends import cuda, native
from rnnfast.backends.cuda import precision

VARIABLE = "RNNFAST_CUDA_PRODUCT"


@pytest.fixture(autouse=True)
def _plain_settings(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("setting", "least"), [("highest", "FFMA"), ("high", "TF32"), ("medium", "16-bit")]
)
def test_torch_decides(setting, least, monkeypatch):
    torch.set_float32_matmul_precision(setting)
    assert precision.least_exact() == least
    assert precision.explain().endswith(f"as torch's float32_matmul_precision {setting!r} allows")
    monkeypatch.setenv(VARIABLE, "")
    assert precision.least_exact() == least


@pytest.mark.parametrize("setting", ["highest", "medium"])
@pytest.mark.parametrize("product", precision.EXACTNESS)
def test_the_variable_takes_its_place(product, setting, monkeypatch):
    torch.set_float32_matmul_precision(setting)
    monkeypatch.setenv(VARIABLE, product)
    assert precision.least_exact() == product
    assert precision.explain().endswith(f"as {VARIABLE}={product} allows")


def test_what_is_more_exact_is_allowed_too():
    assert precision.allowed("FFMA") == ("FFMA",)
    assert precision.allowed("3xTF32") == ("FFMA", "3xTF32")
    assert precision.allowed("16-bit") == ("FFMA", "3xTF32", "TF32", "16-bit")


def test_another_value_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "tf32")
    message = f"{VARIABLE} is 'tf32'; it must be one of: FFMA 3xTF32 TF32 16-bit"
    for ask in (precision.least_exact, precision.explain, lambda: cuda._ops(torch.zeros(1))):
        with pytest.raises(ValueError, match=message):
            ask()


@pytest.mark.parametrize("product", ["FFMA", "3xTF32"])
def test_torch_compile_takes_the_backend_whole(product, monkeypatch):
    """On operators that have shapes for tracing, which the emulated ones do not."""
    assert native.load_error() == ""
    monkeypatch.setenv(VARIABLE, product)
    monkeypatch.setattr(torch.ops, "rnnfast_emulated", torch.ops.rnnfast, raising=False)
    x, W_hh, h0 = torch.randn(5, 2, 4), torch.randn(4, 4), torch.randn(2, 4)

    def states(x):
        return cuda.rnn_forward(x, None, W_hh, None, h0, False)[0]

    try:
        compiled = torch.compile(states, fullgraph=True, backend="eager")
        assert torch.equal(compiled(x), states(x))
    finally:
        monkeypatch.undo()
        cuda._use_current_plans()
