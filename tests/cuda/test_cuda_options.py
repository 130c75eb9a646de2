"""Lengths, resets and leaky cells on CUDA, without a GPU, each for itself and with the others."""

import pytest
import torch

import rnnfast
from rnnfast import functional, use_backend
from rnnfast.backends import Adjoint, Needs
from rnnfast.backends.cuda import cuda
from rnnfast.cells import CELLS
from support.emulator import build
from support.recurrences import (
    WRONG_OPTIONS,
    check,
    check_gradients_are_optional,
    check_refuses,
    make,
    run,
)

pytestmark = [
    pytest.mark.skipif(bool(build.why_not()), reason=build.why_not()),
    pytest.mark.usefixtures("emulated"),
]

LENGTHS = {
    "all different": [5, 4, 3, 2, 1],
    "one is long": [7, 2, 2, 1, 1],
    "equal": [3] * 4,
    "one": [4],
    "one step": [1, 1, 1],
}
LENGTHS_OF_ALL = pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
WAYS = pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
LEAKY = pytest.mark.parametrize("cell", ["tanh", "leaky_tanh"])
RESETS = pytest.mark.parametrize("to_h0", [False, True], ids=["to zero", "to h0"])
SHAPES = [(5, 3, 33), (1, 4, 12), (6, 1, 7), (1, 1, 1)]


@DTYPES
@WAYS
@pytest.mark.parametrize("V", [None, 5, 300], ids=["dense", "table", "large table"])
@LENGTHS_OF_ALL
def test_lengths(lengths, V, reverse, dtype):
    transposed = V is None
    shape = max(lengths), len(lengths), 12
    options = {"reverse": reverse, "transposed": transposed, "dtype": dtype}
    check(cuda, make(*shape, V, lengths=lengths, **options))


@DTYPES
@WAYS
@LEAKY
@RESETS
@pytest.mark.parametrize("shape", SHAPES)
def test_resets(shape, to_h0, cell, reverse, dtype):
    V = 5 if reverse else None
    options = {"resets": True, "resets_to_h0": to_h0, "reverse": reverse, "transposed": to_h0}
    check(cuda, make(*shape, V, cell=cell, dtype=dtype, **options))


@DTYPES
@WAYS
@pytest.mark.parametrize("cell", ["leaky_tanh", "leaky_relu"])
@pytest.mark.parametrize("shape", SHAPES)
def test_leaky_cells(shape, cell, reverse, dtype):
    case = make(*shape, cell=cell, reverse=reverse, transposed=reverse, dtype=dtype)
    check(cuda, case)
    check(cuda, case._replace(grad_hs=None))
    check(cuda, case._replace(grad_h_last=None))


@DTYPES
@pytest.mark.parametrize("H", [12, 300], ids=["one block", "a cluster"])
def test_gradients_are_optional(H, dtype):
    options = {"resets": True, "resets_to_h0": True, "lengths": [3, 1], "reverse": True}
    check_gradients_are_optional(cuda, make(3, 2, H, cell="leaky_tanh", dtype=dtype, **options))


@WAYS
@RESETS
@LEAKY
@LENGTHS_OF_ALL
def test_resets_of_lengths(lengths, cell, to_h0, reverse):
    options = {"resets": True, "resets_to_h0": to_h0, "reverse": reverse}
    check(cuda, make(max(lengths), len(lengths), 13, lengths=lengths, cell=cell, **options))


@DTYPES
@pytest.mark.parametrize("options", [{}, {"resets": True}, {"cell": "leaky_relu"}], ids=str)
@pytest.mark.parametrize("lengths", [None, LENGTHS["one is long"]], ids=["equal", "lengths"])
def test_both_directions(lengths, options, dtype):
    T, B = (4, 3) if lengths is None else (max(lengths), len(lengths))
    check(cuda, make(T, B, 12, both=True, lengths=lengths, dtype=dtype, **options))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("H", [300, 301, 1100], ids=["tensor cores", "cuBLAS", "off the chip"])
def test_wide_layers(H, cell):
    check(cuda, make(3, 2, H, 5, cell=cell, lengths=[3, 1], transposed=H == 300))


@DTYPES
def test_many_steps(dtype):
    lengths = [90, 60, 31]
    check(cuda, make(90, 3, 9, lengths=lengths, cell="leaky_tanh", resets=True, dtype=dtype))


def test_a_row_without_an_option_has_the_bits_of_a_plain_call():
    plain = make(6, 3, 12, dtype=torch.float64)
    equal = make(6, 3, 12, lengths=[6] * 3, dtype=torch.float64)
    none = plain._replace(call=plain.call._replace(resets=torch.zeros(6, 3, dtype=torch.bool)))
    want = run(cuda, plain)
    for case in (equal, none):
        for name, value in run(cuda, case).items():
            assert torch.equal(value.view(want[name].shape), want[name]), name


@pytest.mark.parametrize("V", [None, 5, 300], ids=["dense", "table", "large table"])
def test_strided_options(V):
    case = make(4, 6, 12, V, cell="leaky_tanh", resets=True, lengths=[4, 4, 3, 2, 2, 1])
    want = run(cuda, case)
    r = case.call
    call = r._replace(
        ids=None if V is None else torch.stack((r.ids, r.ids), 1)[:, 0],
        resets=r.resets.T.contiguous().T,
        leak=torch.stack((r.leak, r.leak), 1)[:, 0],
        batch_sizes=torch.stack((r.batch_sizes, r.batch_sizes), 1)[:, 0],
    )
    for name, value in run(cuda, case._replace(call=call)).items():
        assert torch.equal(value, want[name]), name
    states = (each.T.contiguous().T for each in cuda.rnn_forward(call, True)[::2])
    made = cuda.rnn_backward(Adjoint(call, V or 0, *states, *case[1:], Needs()))
    for name, value in made._asdict().items():
        assert torch.equal(value, want[name]), name


def test_the_leak_of_no_sequences_has_no_gradient():
    results = run(cuda, make(4, 0, 12, cell="leaky_tanh"))
    for name in ("W_hh", "b_h", "leak"):
        assert not results[name].any(), name


@pytest.mark.parametrize(("wrong", "message"), WRONG_OPTIONS)
def test_refuses_options_that_do_not_fit(wrong, message):
    check_refuses(cuda, wrong, message)


def test_refuses_noise_that_torch_must_draw():
    call = make(2, 3, 8, noise=0.5, seed=1).call
    with pytest.raises(RuntimeError, match=r"noise is 0.5; it must be 0 on CUDA"):
        cuda.rnn_forward(call, True)
    assert cuda.seed_of_noise(None) is None


@DTYPES
def test_a_capture_takes_calls_that_have_run_before(dtype, emulated):
    cases = [make(3, 2, 8, dtype=dtype, **o) for o in ({"lengths": [3, 1]}, {"resets": True})]
    for case in cases:
        run(cuda, case)
    emulated.driver().emulated_driver_capturing(1)
    try:
        for case in cases:
            run(cuda, case)
    finally:
        emulated.driver().emulated_driver_capturing(0)


@DTYPES
def test_more_steps_than_one_launch_writes_to_the_device(dtype):
    check(cuda, make(700, 3, 5, dtype=dtype, lengths=[700, 499, 2]))


# ---- through the functions and layers above


def on_both(emulated, results):
    """What a function gives on the kernels, which run, and on the reference."""
    launches = emulated.driver().emulated_driver_launches
    with use_backend("cuda"):
        before = launches()
        got = results()
        assert launches() > before  # the reference has none
    with use_backend("reference"):
        return got, results()


@pytest.mark.parametrize("dense", [False, True], ids=["ids", "dense"])
@pytest.mark.parametrize("to_h0", [None, False, True], ids=["no resets", "to zero", "to h0"])
@pytest.mark.parametrize("leaky", [False, True], ids=["plain", "leaky"])
def test_functional_rnn_takes_the_kernels(leaky, to_h0, dense, emulated):
    def results():
        torch.manual_seed(1)
        leaves = [torch.randn(s, requires_grad=True) for s in ((3, 8), (5, 8), (8, 8), (8,), (8,))]
        h0, W_xh, W_hh, b_h, leak = leaves
        inputs = torch.randn(4, 3, 5) if dense else torch.randint(5, (4, 3))
        options = {"leak": leak.sigmoid()} if leaky else {}
        if to_h0 is not None:
            options |= {"resets": torch.rand(4, 3) < 0.4, "resets_to_h0": to_h0}
        hs, h = functional.rnn(inputs, h0, W_xh, W_hh / 3, b_h, **options)
        (hs.square().sum() + h.sum()).backward()
        return [hs.detach(), h.detach(), *(leaf.grad for leaf in leaves[: 4 + leaky])]

    torch.testing.assert_close(*on_both(emulated, results))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_a_leaky_layer_with_resets_takes_the_kernels(packed, bidirectional, emulated):
    def results():
        torch.manual_seed(1)
        layer = rnnfast.RNN(
            5, 12, bidirectional=bidirectional, leak=0.4, learn_leak=True, learn_h0=True
        )
        inputs, resets = torch.randint(5, (6, 4)), torch.rand(6, 4) < 0.3
        if packed:
            lengths = torch.tensor([2, 6, 5, 1])
            inputs = torch.nn.utils.rnn.pack_padded_sequence(inputs, lengths, enforce_sorted=False)
        y, h = layer(inputs, resets=resets)
        y = y.data if packed else y
        (y.square().sum() + h.sum()).backward()
        return [y.detach(), h.detach(), *(parameter.grad for parameter in layer.parameters())]

    torch.testing.assert_close(*on_both(emulated, results))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_packed_layer_agrees_with_torch(bidirectional, emulated):
    options = {"num_layers": 2, "bidirectional": bidirectional}
    theirs, ours = torch.nn.RNN(5, 12, **options), rnnfast.RNN(5, 12, **options)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(6, 4, 5)
    lengths = torch.tensor([2, 6, 5, 1])

    def results(layer):
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        y, h = layer(packed)
        (y.data.square().sum() + h.sum()).backward()
        return y.data, h, [parameter.grad for parameter in layer.parameters()]

    before = emulated.driver().emulated_driver_launches()
    with use_backend("cuda"):
        found = results(ours)
        assert "packed sequences: the kernels of cuda" in str(rnnfast.explain(ours))
    assert emulated.driver().emulated_driver_launches() > before + 6  # torch's own layer has none
    torch.testing.assert_close(found, results(theirs))
