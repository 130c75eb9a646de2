"""rnnfast.nn.RNN on the CUDA kernels, without a GPU: it has its weights as torch.nn.RNN does."""

import re

import pytest
import torch

import rnnfast
from rnnfast import use_backend
from rnnfast.backends import Adjoint, Needs, Recurrence
from rnnfast.backends.cuda import bridge, choose_recurrence, cuda, plan_for
from rnnfast.backends.reference import reference
from support import recurrences
from support.compare import assert_close_to_f64
from support.emulator import build
from support.problems import NAMES, make, run

pytestmark = [
    pytest.mark.skipif(bool(build.why_not()), reason=build.why_not()),
    pytest.mark.usefixtures("emulated"),
]


@pytest.mark.parametrize("V", [None, 5])
def test_transposed_weights_are_multiplied_as_such(V):
    p = make(4, 3, 12, V)
    want = run(cuda, p)
    r = Recurrence("tanh", p.x, p.ids, p.W_hh.T.contiguous(), p.b_h, p.h0, transposed=True)
    hs, h_last, _ = cuda.rnn_forward(r, True)
    made = cuda.rnn_backward(Adjoint(r, V or 0, hs, None, p.grad_hs, p.grad_h_last, Needs()))
    got = hs, h_last, made.x, made.W_hh.T, made.b_h, made.h0
    for name, value in zip(NAMES, got, strict=True):
        torch.testing.assert_close(value, want[name], msg=name)


@pytest.mark.parametrize("V", [None, 5])
@pytest.mark.parametrize(
    ("T", "B", "H", "dtype"),
    [
        (4, 3, 12, torch.float32),
        (1, 2, 12, torch.float32),
        (5, 1, 33, torch.float64),  # step by step
        (3, 2, 300, torch.float32),  # a cluster, and tensor cores for the gradient of W_hh
        (2, 3, 301, torch.float32),  # ... torch's product
    ],
)
def test_time_that_runs_backwards(T, B, H, dtype, V):
    check(recurrences.make(T, B, H, V, dtype=dtype, reverse=True, transposed=True))


@pytest.mark.parametrize(
    ("T", "B", "H", "dtype"),
    [
        (4, 3, 12, torch.float32),
        (1, 1, 1, torch.float32),
        (5, 1, 33, torch.float64),  # step by step
        (1, 3, 6, torch.float64),
        (3, 1, 300, torch.float32),  # a cluster, and tensor cores for the gradients of W_hh
        (2, 3, 301, torch.float32),  # ... torch's product
    ],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_both_directions(T, B, H, dtype, transposed):
    case = recurrences.make(T, B, H, dtype=dtype, both=True, transposed=transposed)
    check(case)
    check(case._replace(grad_hs=None))


@pytest.mark.full
def test_both_directions_of_a_large_batch():
    check(recurrences.make(2, 32, 300, both=True))


def test_both_directions_of_no_sequences():
    results = recurrences.run(cuda, recurrences.make(4, 0, 7, both=True))
    assert results["hs"].shape == results["x"].shape == (4, 0, 14)
    assert results["h0"].shape == (2, 0, 7)
    for name in ("W_hh", "b_h"):
        assert not results[name].any(), name


def check(case):
    got, same = (recurrences.run(backend, case) for backend in (cuda, reference))
    truth = recurrences.run(reference, case.to(torch.float64))
    for name, value in same.items():
        assert_close_to_f64(name, got[name], value, truth[name])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_a_layer_agrees_with_torch(nonlinearity, bidirectional, driver):
    options = {"num_layers": 2, "nonlinearity": nonlinearity, "bidirectional": bidirectional}
    theirs, ours = torch.nn.RNN(5, 12, **options), rnnfast.nn.RNN(5, 12, **options)
    ours.load_state_dict(theirs.state_dict())
    x, h0 = torch.randn(7, 3, 5), torch.randn(2 * (1 + bidirectional), 3, 12)
    before = driver.emulated_driver_launches()
    with use_backend("cuda"):
        found = results(ours, x, h0)
    assert driver.emulated_driver_launches() > before + 4  # torch's own layer launches none
    same, truth = results(theirs, x, h0), results(theirs.double(), x.double(), h0.double())
    for name, value in found.items():
        assert_close_to_f64(name, value, same[name], truth[name])


def results(layer, x, h0):
    layer.zero_grad()
    y, h_last = layer(x, h0)
    (y.square().sum() + h_last.sum()).backward()
    return {"y": y, "h_last": h_last} | {n: p.grad.clone() for n, p in layer.named_parameters()}


@pytest.fixture
def launched():
    """The questions that launches ask from here on."""
    questions = []

    def answered(question):
        questions.append(question)
        return plan_for(question)

    bridge.start(answered)
    bridge.forget_plans()
    yield questions
    bridge.start(plan_for)
    bridge.forget_plans()


def test_both_directions_have_a_plan_of_their_own(launched):
    """They share the device, so that another variant may serve two launches of a size."""
    for both in (False, True, False, True):
        cuda.rnn_forward(recurrences.make(3, 2, 12, both=both).call, True)
    assert [each.launches for each in launched] == [1, 2]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("leak", "bidirectional"), [(None, False), (0.5, False), (None, True)])
def test_explain_names_the_kernels_that_a_layer_asks_for(
    leak, bidirectional, packed, launched, monkeypatch
):
    """By the question that the launches of a forward and a backward pass ask."""
    explained = []
    chosen = choose_recurrence.chosen

    def recorded(question):
        explained.append(question)
        return chosen(question)

    layer = rnnfast.RNN(5, 12, nonlinearity="relu", leak=leak, bidirectional=bidirectional)
    x = torch.randn(2, 1, 5)
    with use_backend("cuda"):
        out, _ = layer(torch.nn.utils.rnn.pack_sequence([x[:, 0]]) if packed else x)
        (out.data if packed else out).sum().backward()
        monkeypatch.setattr(choose_recurrence, "chosen", recorded)
        lines = rnnfast.explain(layer).layers
    assert [each.operation for each in launched] == ["rnn_forward", "rnn_backward"]
    assert set(launched) <= set(explained)
    assert {each.has_options for each in launched} == {packed or leak is not None}
    whose = "the model, packed sequences:" if packed and leak is None else "the model, layer 0"
    first = next(i for i, line in enumerate(lines) if line.startswith(whose)) + 1
    for line, operation, B in zip(
        lines[first:], ["forward"] * 3 + ["backward"] * 3, [1, 32, 256] * 2, strict=False
    ):
        assert re.match(rf"  {operation} H=12 B={B}: a block .* us a step \(", line)
        assert ("of the kernel without options" in line) == (packed or leak is not None)


def test_explain_names_the_kernels_of_a_matrix():
    with use_backend("cuda"):
        lines = rnnfast.explain(torch.zeros(33, 33, dtype=torch.float64)).variants
    assert len(lines) == 6
    assert lines[3].startswith("backward H=33 B=1: one matrix product and one kernel for every")
