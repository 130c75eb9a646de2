"""Native generation: every choice checked in float64, along the path that the kernel took."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rnnfast.backends import library
from rnnfast.backends.compiled import native
from rnnfast.backends.reference import reference
from support import instruction_sets
from support.decoding import (
    ARGMAX_LOGITS,
    NAN,
    SAMPLING_EDGES,
    check_greedy,
    check_infinite_states,
    check_sampled,
    constant_logits,
    make,
)

assert library.load_error() == ""

TESTS = Path(__file__).parent
FLOATS = [torch.float32, torch.float64]


SIZES = (1, 1, 1, 1), (1, 7, 3, 5), (1, 64, 28, 9), (1, 301, 28, 12), (3, 33, 50, 7), (9, 40, 5, 6)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("B", "H", "V", "steps"), SIZES)
def test_greedy_takes_the_largest_logit(threads, B, H, V, steps, dtype, relu):
    model = make(B, H, V, dtype, relu)
    ids, h_last = model.decode(steps)
    assert ids.shape == (steps, B)
    assert ids.dtype == torch.int64
    check_greedy(model, ids, h_last)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("B", "H", "V", "steps"), SIZES)
@pytest.mark.parametrize("temperature", [0.3, 5.0])
def test_sampling_inverts_the_cumulative_distribution(threads, B, H, V, steps, dtype, temperature):
    model = make(B, H, V, dtype)
    u = torch.rand(steps, B, dtype=dtype)
    ids, h_last = model.decode(steps, temperature, u)
    check_sampled(model, u, temperature, ids, h_last)


def test_agrees_with_the_reference_in_float64():
    model = make(4, 50, 28, torch.float64)
    u = torch.rand(30, 4, dtype=torch.float64)
    for uniforms in (None, u, u.float()):
        got = model.decode(30, 0.8, uniforms)
        want = model.decode(30, 0.8, uniforms, backend=reference)
        assert torch.equal(got[0], want[0])
        torch.testing.assert_close(got[1], want[1])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("logits", ARGMAX_LOGITS)
def test_argmax_is_torchs(logits, dtype):
    want = torch.tensor(logits, dtype=dtype).argmax().item()
    ids, _ = constant_logits(logits, dtype=dtype).decode(3)
    assert ids.flatten().tolist() == [want] * 3


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("logits", "u"), SAMPLING_EDGES)
def test_sampling_at_the_edges_is_the_references(logits, u, dtype):
    model = constant_logits(logits, dtype=dtype)
    uniforms = torch.full((2, 1), u, dtype=dtype)
    got, want = (model.decode(2, 1.0, uniforms, backend)[0] for backend in (native, reference))
    assert got.tolist() == want.tolist()


def test_a_cold_sample_is_greedy():
    model = make(2, 20, 15)
    ids, _ = model.decode(30, 1e-6, torch.rand(30, 2))
    assert torch.equal(ids, model.decode(30)[0])


def test_a_nan_state_stays_nan():
    for relu in (False, True):
        model = make(1, 6, 4, relu=relu)
        model.h0[0, 2] = NAN
        ids, h_last = model.decode(2)
        assert h_last.isnan().all()
        assert ids.flatten().tolist() == [0, 0]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("B", "H"), [(1, 20), (1, 301), (3, 33)])
def test_infinite_states_stay_infinite(B, H, dtype):
    check_infinite_states(B, H, native, dtype)
    check_infinite_states(B, H, reference, dtype)


def test_no_steps_and_no_sequences():
    model = make(3, 8, 5)
    for backend in (native, reference):
        ids, h_last = model.decode(0, 1.0, None, backend)
        assert ids.shape == (0, 3)
        assert torch.equal(h_last, model.h0)
        assert h_last.data_ptr() != model.h0.data_ptr()
    ids, h_last = make(0, 8, 5).decode(4)
    assert ids.shape == (4, 0)
    assert h_last.shape == (0, 8)


def test_strided_arguments():
    model = make(4, 24, 9, torch.float64)
    u = torch.rand(4, 6, dtype=torch.float64).T
    want = model.decode(6, 1.0, u.contiguous())
    for name, value in vars(model).items():
        if isinstance(value, Tensor):
            wide = torch.randint(9, (*value.shape, 2)).to(value.dtype)
            wide[..., 0] = value
            setattr(model, name, wide[..., 0])
            assert not getattr(model, name).is_contiguous()
    got = model.decode(6, 1.0, u)
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])


def test_same_bits_every_time(threads):
    model = make(1, 300, 28)
    ids, h_last = model.decode(50)
    for _ in range(5):
        again = model.decode(50)
        assert torch.equal(again[0], ids)
        assert torch.equal(again[1], h_last)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": torch.tensor([0, 5, 1])}, r"smaller than num_classes. first\[1\] is 5"),
        ({"first": torch.tensor([0, 1, -2])}, r"must be non-negative. first\[2\] is -2"),
        ({"first": torch.tensor([0, 1, 2]).int()}, r"first is int32 \[3\]; it must be int64"),
        ({"first": torch.tensor([[0]])}, r"first is int64 \[1, 1\]; it must have 1 dimension"),
        (
            {"W_xh": torch.zeros(5, 8).bfloat16()},
            r"W_xh is bfloat16 \[5, 8\]; it must be float32 or",
        ),
        ({"W_hh": torch.zeros(8, 7)}, r"W_hh is float32 \[8, 7\]; it must be .* = \[8, 8\]"),
        ({"b_h": torch.zeros(8).double()}, r"b_h is float64 \[8\]; it must be float32"),
        ({"W_hq": torch.zeros(5, 8)}, r"W_hq is float32 \[5, 8\]; .* \[H, V\] = \[8, 5\]"),
        ({"b_q": torch.zeros(1, 5)}, r"b_q is float32 \[1, 5\]"),
        ({"h0": torch.zeros(2, 8)}, r"h0 is float32 \[2, 8\]; .* = \[3, 8\]"),
        ({"steps": -1}, r"steps is -1; it must be at least 0"),
        (
            {"temperature": 0.0, "uniforms": torch.rand(2, 3)},
            r"temperature is 0; it must be above 0",
        ),
        ({"temperature": NAN, "uniforms": torch.rand(2, 3)}, r"temperature is nan"),
        ({"uniforms": torch.rand(3, 2)}, r"uniforms is float32 \[3, 2\]; .* = \[2, 3\]"),
        ({"uniforms": torch.ones(2, 3)}, r"uniforms\[0, 0\] is 1; it must be in \[0, 1\)"),
        ({"uniforms": torch.full((2, 3), NAN)}, r"uniforms\[0, 0\] is nan"),
        ({"uniforms": torch.zeros(2, 3).long()}, r"uniforms is int64"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    model, call = make(3, 8, 5), {"steps": 2, "temperature": 1.0, "uniforms": None}
    for name, value in change.items():
        if name in call:
            call[name] = value
        else:
            setattr(model, name, value)
    with pytest.raises(RuntimeError, match=message):
        model.decode(**call)


@pytest.mark.full
@pytest.mark.parametrize("instruction_set", instruction_sets.other_kernels())
def test_on_every_instruction_set(instruction_set):
    files = [str(TESTS / name) for name in ("test_decode.py", "test_clip_norm.py")]
    which = "edges or argmax or squares or strides or greedy or float64"
    instruction_sets.run_again(files, f"({which}) and not instruction", instruction_set)
