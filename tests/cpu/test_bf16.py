"""Products of bfloat16 in native inference: how exact, when, and on each instruction set."""

import functools

import pytest
import torch

from rnnfast import autograd
from rnnfast.backends import Recurrence, library
from rnnfast.backends.compiled import native
from rnnfast.backends.reference import reference
from support import instruction_sets, untyped
from support.compare import assert_close_to_f64
from support.decoding import check_infinite_states

assert library.load_error() == ""

rnn_bf16, decode_bf16 = torch.ops.rnnfast.rnn_bf16, torch.ops.rnnfast.decode_bf16
HAS_INSTRUCTION = library.build_info().endswith("avx512_bf16")
DECODE_ROUNDS = not library.build_info().endswith("baseline")

# B and H: tiles that are not full, odd sums, splits by rows and by columns
SIZES = [(1, 1), (1, 3), (2, 17), (5, 33), (9, 70), (33, 65), (1, 301), (3, 200), (0, 8)]


@pytest.fixture
def medium():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def make(T, B, H, V=11):
    """Spectral radius near 1; x, ids, W_hh, b_h, h0."""
    x, ids = torch.randn(V, H), torch.randint(V, (T, B))
    return x, ids, torch.randn(H, H) / H**0.5, torch.randn(H) * 0.1, torch.randn(B, H)


def rounded(tensor):
    return tensor.bfloat16().float()


def rounding_loop(x, ids, W_hh, b_h, h0, relu):
    """`reference.rnn_forward` with the operands of its product rounded to bfloat16."""
    act, h, hs = torch.relu if relu else torch.tanh, h0, []
    for u_t in x if ids is None else x[ids]:
        z = u_t + rounded(h) @ rounded(W_hh)
        h = act(z if b_h is None else z + b_h)
        hs.append(h)
    return torch.stack(hs), h


def wide(args):
    return [a.double() if torch.is_tensor(a) and a.is_floating_point() else a for a in args]


@pytest.mark.parametrize("kind", ["table", "projection", "large table"])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("T", [1, 2, 7])
@pytest.mark.parametrize(("B", "H"), SIZES)
def test_forward_is_as_exact_as_rounded_operands_allow(threads, B, H, T, relu, kind):
    x, ids, W_hh, b_h, h0 = make(T, B, H, V=500 if kind == "large table" else 11)
    if kind == "projection":
        x, ids, b_h = torch.randn(T, B, H), None, None
    args = (x, ids, W_hh, b_h, h0, relu)
    hs, h_last = rnn_bf16(*args)
    same, same_last = rounding_loop(*args)
    want, want_last = untyped.rnn_forward(reference, *wide(args))
    assert_close_to_f64("hs", hs, same, want)
    assert_close_to_f64("h_last", h_last, same_last, want_last)
    if B and T == 1 and HAS_INSTRUCTION:  # not only as exact, but rounded alike
        assert (hs - same).abs().max() < 1e-5


@pytest.mark.skipif(not HAS_INSTRUCTION, reason="products are exact on a CPU that rounds slowly")
def test_operands_round_to_the_nearest_even():
    """Each product is exact in float32, so that the sums show how their operands were rounded."""
    ties = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8, 3e38, 1e-30])
    for value in ties.tolist():
        h0, W = torch.tensor([[value]]), torch.tensor([[2.0**-5]])
        hs, _ = rnn_bf16(torch.zeros(1, 1, 1), None, W, None, h0, True)
        assert hs.item() == max(0.0, rounded(h0).item() * 2.0**-5)
        hs, _ = rnn_bf16(torch.zeros(1, 1, 1), None, h0, None, W, True)
        assert hs.item() == max(0.0, rounded(h0).item() * 2.0**-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(value):
    x, ids, W_hh, b_h, h0 = make(3, 4, 20)
    h0[2, 7] = value
    W_hh[7] = W_hh[7].abs()
    hs, _ = rnn_bf16(x, ids, W_hh, b_h, h0, True)
    want, _ = untyped.rnn_forward(reference, x, ids, W_hh, b_h, h0, True)
    assert torch.equal(hs.isnan(), want.isnan())
    assert torch.equal(hs.isinf(), want.isinf())


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("B", "H"), [(1, 1), (4, 33), (1, 301), (9, 65)])
def test_an_infinite_state_meets_no_padding(B, H, relu):
    """Of an odd H the last pair is half of padding, whose weights are 0: NaN, were it infinite."""
    x, ids, W_hh, b_h, h0 = make(3, B, H)
    h0[:, H // 2] = float("inf")
    hs, _ = rnn_bf16(x, ids, W_hh.abs() + 0.01, b_h, h0, relu)
    assert not hs.isnan().any()


@pytest.mark.parametrize(("B", "H"), SIZES)
def test_decode_is_as_exact_as_rounded_operands_allow(threads, B, H):
    V, steps = 28, 6
    W_xh, _, W_hh, b_h, h0 = make(1, B, H, V)
    W_hq, b_q, first = torch.randn(H, V) * 3 / H**0.5, torch.randn(V), torch.randint(V, (B,))
    weights = (W_xh, W_hh, b_h, W_hq, b_q)
    for uniforms in (None, torch.rand(steps, B)):
        ids, h_last = decode_bf16(first, *weights, h0, steps, 1.0, uniforms, False)
        path = torch.cat((first.unsqueeze(0), ids[:-1]))
        args = (W_xh, path, W_hh, b_h, h0, False)
        same, same_last = rounding_loop(*args)
        want, want_last = untyped.rnn_forward(reference, *wide(args))
        assert_close_to_f64("h_last", h_last, same_last, want_last)
        logits = want @ W_hq.double() + b_q.double()
        error = (same @ W_hq + b_q - logits).abs().amax() if B else 0
        if uniforms is None:
            missed = logits.amax(2) - logits.gather(2, ids.unsqueeze(2)).squeeze(2)
            assert (missed <= 4 * error + 1e-5).all()
        else:
            cumulative = torch.softmax(logits, 2).cumsum(2)
            above = cumulative.gather(2, ids.unsqueeze(2)).squeeze(2)
            below = above - torch.softmax(logits, 2).gather(2, ids.unsqueeze(2)).squeeze(2)
            assert (below - 4 * error - 1e-5 <= uniforms).all()
            assert (uniforms < above + 4 * error + 1e-5).all()


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_only_medium_rounds(medium, precision):
    """Above medium, in float64, and where a gradient is recorded: the same bits as ever."""
    args = (*make(4, 9, 70), False)
    exact, short = torch.ops.rnnfast.rnn.plain(*args), rnn_bf16(*args)
    assert torch.equal(short[0], exact[0]) != HAS_INSTRUCTION
    assert torch.equal(untyped.rnn_forward(native, *args, saves=False)[0], short[0])
    rounded = untyped.rnn_forward(native, *wide(args), saves=False)
    for got, want in zip(rounded, torch.ops.rnnfast.rnn.plain(*wide(args)), strict=True):
        assert torch.equal(got, want)
    x, ids, W_hh, b_h, h0, _ = args
    recur = functools.partial(autograd.recur, native)
    call = Recurrence("tanh", x, ids, W_hh.clone().requires_grad_(), b_h, h0)
    assert torch.equal(recur(call)[0], exact[0])
    with torch.no_grad():
        assert torch.equal(recur(call)[0], short[0])
        compiled = torch.compile(recur, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(call)[0], short[0])
    plain, readout = call._replace(W_hh=W_hh), (torch.randn(70, 11), torch.zeros(11))
    for saves, want in ((True, exact), (False, short)):
        assert torch.equal(native.rnn_logits(plain, *readout, saves)[2], want[0])
    torch.set_float32_matmul_precision(precision)
    for got, want in zip(untyped.rnn_forward(native, *args, saves=False), exact, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_only_medium_rounds_in_decode(medium, precision):
    W_xh, _, W_hh, b_h, h0 = make(1, 2, 70)
    readout = (torch.randn(70, 11), torch.zeros(11))
    args = (torch.tensor([0, 1]), W_xh, W_hh, b_h, *readout, h0, 5, 1.0, None, False)
    exact = torch.ops.rnnfast.decode(*args)
    assert torch.equal(untyped.decode(native, *args)[1], exact[1]) != DECODE_ROUNDS
    in_float64 = torch.ops.rnnfast.decode(*wide(args))
    assert torch.equal(untyped.decode(native, *wide(args))[1], in_float64[1])
    torch.set_float32_matmul_precision(precision)
    for got, want in zip(untyped.decode(native, *args), exact, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize(("B", "H"), [(1, 20), (1, 33), (1, 301), (9, 65)])
def test_infinite_states_stay_infinite_in_decode(medium, B, H):
    check_infinite_states(B, H, native)


def test_operators_are_sound():
    x, ids, W_hh, b_h, h0 = make(3, 4, 8)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    with torch.no_grad():
        torch.library.opcheck(rnn_bf16.default, (x, ids, W_hh, b_h, h0, False), test_utils=checks)
        readout = (torch.randn(8, 11), torch.zeros(11))
        args = (ids[0], x, W_hh, b_h, *readout, h0, 5, 1.0, None, False)
        torch.library.opcheck(decode_bf16.default, args, test_utils=checks)


def test_refuses_float64():
    args = (*wide(make(3, 4, 8)), False)
    with pytest.raises(RuntimeError, match=r"x is float64 \[11, 8\]; it must be float32"):
        rnn_bf16(*args)


def test_refuses_both_directions():
    x, W_hh, h0 = torch.randn(3, 4, 16), torch.randn(2, 8, 8), torch.randn(2, 4, 8)
    torch.ops.rnnfast.rnn.plain(x, None, W_hh, None, h0, 0)
    with pytest.raises(RuntimeError, match=r"W_hh is float32 \[2, 8, 8\]; it must have 2 dim"):
        rnn_bf16(x, None, W_hh, None, h0, 0)


@pytest.mark.full
@pytest.mark.parametrize("instruction_set", instruction_sets.others())
def test_on_every_instruction_set(instruction_set):
    instruction_sets.run_again([__file__], "not set", instruction_set)
