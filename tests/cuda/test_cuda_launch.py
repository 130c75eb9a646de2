"""CUDA's whole path without a GPU: dispatch, operators, launcher, the driver's twin, emulation."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import rnnfast
from rnnfast import functional, use_backend
from rnnfast.backends.cuda import (
    bridge,
    choose_recurrence,
    cuda,
    kernel_table,
    precision,
)
from rnnfast.backends.cuda.bridge import DriverError, Question
from support import models, problems, recurrences, untyped
from support.emulator import build
from support.problems import NAMES, Problem, make, run, truth_of
from support.threads import check_same_bits

pytestmark = [
    pytest.mark.skipif(bool(build.why_not()), reason=build.why_not()),
    pytest.mark.usefixtures("emulated"),
]

ROOT = Path(__file__).parents[2]


def check(p: Problem) -> None:
    problems.check(cuda, p)


# ---- results


@pytest.mark.parametrize("relu", [False, True], ids=["tanh", "relu"])
@pytest.mark.parametrize("V", [None, 5])
@pytest.mark.parametrize(("T", "B", "H"), [(1, 1, 1), (7, 3, 20), (4, 9, 64)])
def test_one_block(T, B, H, V, relu):
    check(make(T, B, H, V, relu=relu))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("V", [None, 28])
def test_clusters(V, seed, driver):
    driver.emulated_driver_seed(seed)
    p = make(3, 3, 300, V)
    assert choose_recurrence.chosen(question(p)).variant.cluster > 1
    check(p)


@pytest.mark.full
def test_products_differ_as_their_names_say(driver):
    """One process, one size: each setting of torch's has plans of its own."""
    p, errors = make(2, 32, 700), {}
    truth = truth_of(p)
    for setting, product in (("highest", "2xFP16"), ("high", "TF32"), ("highest", "2xFP16")):
        torch.set_float32_matmul_precision(setting)
        assert choose_recurrence.chosen(question(p)).variant.product == product
        got = run(cuda, p)
        found = {name: (got[name] - truth[name]).abs().max() for name in NAMES}
        assert found == errors.setdefault(product, found)
    for name in NAMES:
        assert errors["TF32"][name] > 50 * errors["2xFP16"][name], name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("relu", [False, True], ids=["tanh", "relu"])
@pytest.mark.parametrize("V", [None, 5])
def test_step_by_step(V, relu, dtype, monkeypatch):
    monkeypatch.setattr(choose_recurrence, "by_steps", lambda question, limits: 0.0)
    bridge.forget_plans()
    check(make(6, 3, 17, V, relu=relu, dtype=dtype))
    bridge.forget_plans()


def question(p: Problem) -> Question:
    B, H = p.h0.shape
    V = 0 if p.ids is None else len(p.x)
    return Question("rnn_forward", B, H, V, 32, int(p.relu), False, 0, precision.least_exact())


@pytest.mark.full
def test_a_large_batch():
    p = make(2, 64, 300, 5)
    assert choose_recurrence.chosen(question(p)).variant.unit == "large_batch"
    check(p)


@pytest.mark.parametrize("both", [False, True], ids=["one direction", "both"])
def test_a_kernel_with_scratch(both, monkeypatch):
    cycles = {"90": {operation: [1.0, 0.0] for operation in kernel_table.OPERATIONS}}
    row = {"unit": "large_batch", "HP": 256, "CLUSTER": 4, "ROWS": 2, "PRODUCT": 2, "BUFFERS": 1}
    variant = kernel_table.from_row({**row, "MULTICASTS": 1, "cycles": cycles})
    monkeypatch.setattr(choose_recurrence, "table", lambda: (variant,))
    assert choose_recurrence.chosen(question(make(3, 3, 250))).plan.scratch_bytes > 0
    bridge.forget_plans()
    recurrences.check(cuda, recurrences.make(3, 3, 250, both=both))
    bridge.forget_plans()


def strided(t):
    return torch.stack((t, t), -1)[..., 0]


def offset(t):
    """The same values, further back in their memory."""
    return torch.cat((torch.full((3,), 7).to(t.dtype), t.reshape(-1)))[3:].view(t.shape)


@pytest.mark.parametrize("change", [strided, offset])
@pytest.mark.parametrize("V", [None, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_any_layout(change, V, dtype):
    p = make(5, 4, 12, V, dtype=dtype)
    changed = {k: change(v) for k, v in vars(p).items() if isinstance(v, torch.Tensor)}
    q, want = replace(p, **changed), run(cuda, p)
    states = untyped.rnn_forward(cuda, q.x, q.ids, q.W_hh, q.b_h, q.h0, False)
    incoming = (q.grad_hs, q.grad_h_last, change(want["hs"]), q.ids, V or 0)
    grads = untyped.rnn_backward(cuda, *incoming, q.W_hh, q.h0, False, True, True, True)
    for got, (name, value) in zip((*states, *grads), want.items(), strict=True):
        assert torch.equal(got, value), name


def test_a_state_that_begins_anywhere_is_multiplied_as_well():
    """Of H from which on its product is one of tensor cores, which copy 16 bytes at a time."""
    p = make(2, 2, 260)
    check(replace(p, h0=offset(p.h0)))


@pytest.mark.parametrize("missing", ["b_h", "grad_hs", "grad_h_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_missing_arguments(missing, dtype):
    check(replace(make(4, 3, 12, 5, dtype=dtype), **{missing: None}))


def test_only_what_is_needed():
    p = make(4, 3, 12, 5)
    everything = run(cuda, p)
    for needed in range(8):
        need = [bool(needed & bit) for bit in (1, 2, 4)]
        grads = untyped.rnn_backward(
            cuda, p.grad_hs, p.grad_h_last, everything["hs"], p.ids, 5, p.W_hh, p.h0, p.relu, *need
        )
        for name, grad, wanted in zip(NAMES[2:], grads, [True, *need], strict=True):
            assert torch.equal(grad, everything[name]) if wanted else grad.numel() == 0, name


@pytest.mark.parametrize("V", [None, 5])
def test_no_sequences(V):
    results = run(cuda, make(4, 0, 7, V))
    assert results["hs"].shape == (4, 0, 7)
    assert results["grad_x"].shape == ((5, 7) if V else (4, 0, 7))
    for name in ("grad_x", "grad_W_hh", "grad_b_h"):
        assert not results[name].any(), name


def test_same_bits_on_every_run(driver):
    p = make(5, 9, 40, 28)
    first = run(cuda, p)
    for seed in range(3):
        driver.emulated_driver_seed(seed)
        for name, value in run(cuda, p).items():
            assert torch.equal(value, first[name]), name


def test_last_state_owns_its_storage():
    p = make(3, 2, 8, 5)
    hs, h_last = untyped.rnn_forward(cuda, p.x, p.ids, p.W_hh, p.b_h, p.h0, False)
    assert h_last.untyped_storage().data_ptr() != hs.untyped_storage().data_ptr()


def test_autograd_against_torch():
    made = models.params(7, 12)
    ids, h0 = torch.randint(7, (5, 3)), torch.randn(3, 12, requires_grad=True)
    grads = {}
    for name in ("cuda", "reference"):
        with use_backend(name):
            hs, h_last = functional.rnn(ids, h0, *made[:3])
            loss = (hs**2).sum() + h_last.sum()
            grads[name] = torch.autograd.grad(loss, (*made[:3], h0))
    for ours, theirs in zip(*grads.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_gradcheck():
    wide = {"dtype": torch.float64, "requires_grad": True}
    shapes = ((3, 2, 4), (2, 5), (4, 5), (5, 5), (5,))
    inputs = [torch.randn(shape, **wide) * 0.5 for shape in shapes]
    with use_backend("cuda"):
        assert torch.autograd.gradcheck(functional.rnn, inputs)


def test_python_threads_at_once():
    problems = [make(5, 3, 20, 5), make(4, 2, 33), make(3, 2, 9, dtype=torch.float64)]
    check_same_bits(lambda problem: run(cuda, problem), problems)


# ---- what is wrong with the arguments


def forward(**changes):
    p = make(4, 3, 12, 5)
    arguments = {"x": p.x, "ids": p.ids, "W_hh": p.W_hh, "b_h": p.b_h, "h0": p.h0, "relu": False}
    return untyped.rnn_forward(cuda, *(arguments | changes).values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(5, 12, 1)}, r"x is float32 \[5, 12, 1\]; it must have 2 dimensions"),
        ({"x": torch.zeros(5, 12).half()}, "x is float16 .*; it must be float32 or float64"),
        ({"x": torch.zeros(0, 12)}, "V, the number of rows of x, is 0"),
        ({"W_hh": torch.zeros(12, 11)}, r"W_hh is float32 \[12, 11\]; it must be .* \[12, 12\]"),
        ({"W_hh": torch.zeros(12, 12).double()}, "W_hh is float64 .*; it must be float32"),
        ({"b_h": torch.zeros(3)}, r"b_h is float32 \[3\]; it must be float32 \[H\] = \[12\]"),
        ({"h0": torch.zeros(2, 12)}, r"h0 is .*; it must be float32 \[B, H\] = \[3, 12\]"),
        ({"ids": torch.zeros(4, 3)}, r"ids is float32 \[4, 3\]; it must be int64"),
        ({"ids": torch.zeros(0, 3, dtype=torch.int64)}, "T, the number of steps, is 0"),
    ],
)
def test_bad_arguments_are_named_before_any_launch(changes, message, driver):
    before = driver.emulated_driver_launches()
    with pytest.raises(RuntimeError, match=message):
        forward(**changes)
    assert driver.emulated_driver_launches() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grad_hs": torch.zeros(4, 3, 11)}, r"grad_hs is .* \[4, 3, 12\]"),
        ({"grad_h_last": torch.zeros(3, 12).double()}, "grad_h_last is float64 .*; it must be"),
        ({"ids": torch.zeros(4, 2).long()}, r"ids is .* = \[4, 3\]"),
        ({"V": 0}, "V is 0; it must be at least 1"),
        ({"W_hh": torch.zeros(12, 11)}, r"W_hh is .* \[12, 12\]"),
        ({"h0": torch.zeros(2, 12)}, r"h0 is .* \[3, 12\]"),
    ],
)
def test_the_backward_pass_names_bad_arguments_as_well(changes, message):
    p = make(4, 3, 12, 5)
    names = ("grad_hs", "grad_h_last", "hs", "ids", "V", "W_hh", "h0", "relu")
    arguments = {name: getattr(p, name, 5) for name in names} | changes
    with pytest.raises(RuntimeError, match=message):
        untyped.rnn_backward(cuda, *arguments.values(), True, True, True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("bad", [-1, 5, 2**40])
def test_a_bad_id_shows_at_the_next_call(bad, dtype, driver):
    p = make(4, 3, 12, 5, dtype=dtype)
    p.ids[2, 1] = bad
    hs, _ = untyped.rnn_forward(cuda, p.x, p.ids, p.W_hh, p.b_h, p.h0, False)
    assert hs.isfinite().all()
    with pytest.raises(RuntimeError, match=r"earlier call .* Class values must be non-negative"):
        forward()
    forward()


def test_a_bad_id_shows_at_once_where_launches_block(driver, monkeypatch):
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    with pytest.raises(RuntimeError, match="Class values must be non-negative"):
        forward(ids=torch.full((4, 3), 5))
    forward()


def test_a_bad_id_shows_at_a_check(driver):
    forward(ids=torch.full((4, 3), 5))
    with pytest.raises(DriverError, match="Class values"):
        cuda.check_errors(torch.device("cpu"))
    cuda.check_errors(torch.device("cpu"))


# ---- what is wrong with the device


def test_a_failed_launch_names_the_kernel_and_the_driver(driver):
    driver.emulated_driver_next_launch(719)
    with pytest.raises(RuntimeError, match=r"rnn_forward of single_block\.cu .*LAUNCH_FAILED"):
        forward()
    driver.emulated_driver_next_launch(4242)  # which has no name
    with pytest.raises(RuntimeError, match=r"rnn_forward of single_block\.cu .*: CUDA error 4242$"):
        forward()
    forward()


def test_a_cluster_that_the_device_cannot_have_is_not_chosen(driver):
    plan = choose_recurrence.chosen(question(make(3, 3, 300))).plan
    assert plan.geometry.cluster > 1
    assert bridge.resident(plan, 0) > 0
    driver.emulated_driver_next_clusters(912)  # CUDA_ERROR_INVALID_CLUSTER_SIZE
    assert bridge.resident(plan, 0) == 0
    driver.emulated_driver_next_clusters(1)
    with pytest.raises(DriverError, match=r"active clusters of .* are not known: .*INVALID_VALUE"):
        bridge.resident(plan, 0)


def test_blocks_without_clusters_are_counted_on_all_multiprocessors():
    plan = choose_recurrence.chosen(question(make(3, 3, 20))).plan
    assert plan.geometry.cluster == 1
    of_one, rest = divmod(bridge.resident(plan, 0), bridge.limits(0).multiprocessors)
    assert rest == 0
    assert 1 <= of_one <= 2048 // plan.geometry.block


def test_a_first_use_inside_a_capture_asks_for_a_warm_up(driver):
    p = make(3, 2, 100, relu=True)  # of a size that no other test has
    arguments = (p.x, None, p.W_hh, p.b_h, p.h0, True)
    driver.emulated_driver_capturing(1)
    with pytest.raises(RuntimeError, match="run the same call once before the capture"):
        untyped.rnn_forward(cuda, *arguments)
    driver.emulated_driver_capturing(0)
    expected = untyped.rnn_forward(cuda, *arguments)
    driver.emulated_driver_capturing(1)
    assert torch.equal(untyped.rnn_forward(cuda, *arguments)[0], expected[0])


def test_an_image_that_cannot_be_made_says_why(monkeypatch):
    def fail(*_):
        raise rnnfast.backends.cuda.nvrtc.CompilerError("no compiler today")

    monkeypatch.setattr(bridge, "make_image", fail)
    with pytest.raises(RuntimeError, match="CompilerError: no compiler today"):
        forward(x=torch.zeros(5, 100), W_hh=torch.eye(100), b_h=None, h0=torch.zeros(3, 100))


def test_an_image_that_is_none_is_refused(monkeypatch):
    monkeypatch.setattr(bridge, "make_image", lambda *_: b"nonsense" * 100)
    with pytest.raises(RuntimeError, match=r"image of kernel .* does not load: .*INVALID_IMAGE"):
        forward(x=torch.zeros(5, 101), W_hh=torch.eye(101), b_h=None, h0=torch.zeros(3, 101))


def test_the_library_carries_all_that_kernels_are_compiled_from():
    found = bridge.sources()
    assert {path.name for path in (ROOT / "csrc/cuda/device").glob("*.cu")} <= found.keys()
    for text in found.values():
        assert set(re.findall(r'^#include "(.+)"', text, re.MULTILINE)) <= found.keys()


def test_a_device_that_is_not_there_is_told():
    """Also where all is known of another one."""
    plan = choose_recurrence.chosen(question(make(3, 3, 20))).plan
    assert bridge.resident(plan, 0) > 0
    for ask in (bridge.limits, lambda device: bridge.resident(plan, device)):
        with pytest.raises(DriverError, match="there is no device cuda:7: CUDA_ERROR_INVALID_DEV"):
            ask(7)
