"""Training on CUDA, end to end without a GPU: operators, launcher, emulation."""

import pytest
import torch

import rnnfast
from rnnfast import functional, use_backend
from rnnfast.backends.cuda import bridge, cuda
from support import clipping, models, untyped
from support.emulator import build
from support.training_calls import check, loss_and_gradients, whole_step
from support.training_calls import make as make_network

pytestmark = [
    pytest.mark.skipif(bool(build.why_not()), reason=build.why_not()),
    pytest.mark.usefixtures("emulated"),
]

F32, F64 = torch.float32, torch.float64


# T, B, H, V; a table with more rows than tokens, long rows of logits, one of everything; the
# gradient of W_hh by tensor cores and by a product of torch's, and all classes of the readout.
SHAPES = [
    *[(6, 5, 30, 28), (2, 3, 17, 1100), (1, 1, 1, 1)],
    *[(3, 2, 260, 5), (3, 2, 257, 5), (2, 9, 31, 97)],
]


@pytest.mark.parametrize(("shape", "relu"), [*[(s, False) for s in SHAPES], (SHAPES[0], True)])
@pytest.mark.parametrize("dtype", [F32, F64], ids=["f32", "f64"])
def test_loss_and_gradients(shape, relu, dtype):
    check(loss_and_gradients, relu, shape, dtype, cuda)


@pytest.mark.parametrize("shape", SHAPES)
def test_loss_alone(shape):
    ids, targets, values = make_network(shape, F32)
    *_, h_last, loss = loss_and_gradients(cuda, ids, targets, values, False)
    alone = untyped.rnn_cross_entropy(cuda, ids, targets, *values, False, False, False)
    assert torch.equal(alone[0], loss)
    assert torch.equal(alone[1], h_last)
    assert all(grad.numel() == 0 for grad in alone[2:])


@pytest.mark.parametrize("dtype", [F32, F64], ids=["f32", "f64"])
def test_loss_and_gradients_of_transposed_arguments(dtype):
    ids, targets, values = make_network(SHAPES[0], dtype)
    want = loss_and_gradients(cuda, ids, targets, values, False)
    turned = [value.t().contiguous().t() for value in values[:-1]]
    turned[2], turned[4] = (torch.stack((b, b), 1)[:, 0] for b in (values[2], values[4]))
    got = loss_and_gradients(cuda, ids, targets, [*turned, values[-1].T.contiguous().T], False)
    assert all(map(torch.equal, got, want))


@pytest.mark.parametrize("max_norm", [1e-3, 1e9, float("inf")])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [F32, F64], ids=["f32", "f64"])
def test_whole_step(shape, dtype, max_norm):
    check(whole_step, max_norm, shape, dtype, cuda)


@pytest.mark.parametrize(("shape", "launches"), [(SHAPES[0], 6), (SHAPES[3], 7)])
def test_a_step_is_few_launches_and_can_be_captured(shape, launches, driver):
    network = make_network(shape, F32)
    whole_step(cuda, *network, 1.0)  # compiles
    driver.emulated_driver_capturing(1)
    before = driver.emulated_driver_launches()
    whole_step(cuda, *network, 1.0)
    assert driver.emulated_driver_launches() - before == launches
    driver.emulated_driver_capturing(0)


def test_a_kernel_of_the_loss_is_not_loaded_inside_a_capture(driver):
    """Nor the readout of a number of classes that no other test here has."""
    ids, targets, (W_xh, W_hh, b_h, W_hq, b_q, h0) = make_network((3, 2, 12, 40), F32)
    untyped.rnn_forward(cuda, W_xh, ids, W_hh, b_h, h0, False)
    driver.emulated_driver_capturing(1)
    weights = (W_xh, W_hh, b_h, W_hq, b_q, h0)
    with pytest.raises(
        RuntimeError, match=r"kernel readout of readout\.cu .* the first time inside"
    ):
        untyped.rnn_cross_entropy(cuda, ids, targets, *weights, False, False, False)
    driver.emulated_driver_capturing(0)


@pytest.mark.parametrize(("H", "V", "launches"), [(30, 28, 3), (260, 28, 4), (30, 129, 4)])
def test_the_gradients_of_the_recurrence_are_a_launch_and_their_sum_another(H, V, launches, driver):
    """In slices of rows, which a table of many classes has not."""
    ids, _, (W_xh, W_hh, b_h, _, _, h0) = make_network((8, 9, H, V), F32)
    counts = []
    for _ in range(2):
        leaves = [each.clone().requires_grad_() for each in (W_xh, W_hh, b_h)]
        with use_backend("cuda"):
            hs, _ = functional.rnn(ids, h0, *leaves)
            before = driver.emulated_driver_launches()
            hs.sum().backward()
        counts.append(driver.emulated_driver_launches() - before)
    assert counts[1] == launches


def test_the_gradient_of_a_table_where_there_is_no_bias():
    ids, _, (W_xh, W_hh, _, _, _, h0) = make_network((4, 3, 9, 5), F32)
    grads = []
    for name in ("cuda", "native"):
        leaf = W_xh.clone().requires_grad_()
        with use_backend(name):
            functional.rnn(ids, h0, leaf, W_hh)[0].sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


def test_the_choice_by_sizes():
    def chosen(H, V, bits=32):
        choice = bridge.training_choice(H, V, bits, 0)
        return choice.reads_out, choice.product

    by_cublas, with_others, on_tensor_cores = range(3)
    assert chosen(256, 128) == chosen(1, 1, 64) == (True, with_others)
    assert chosen(260, 28) == (True, on_tensor_cores)
    assert chosen(257, 28) == chosen(260, 28, 64) == (True, by_cublas)
    assert chosen(64, 129) == (False, with_others)


@pytest.mark.parametrize(
    ("sizes", "line"),
    [
        (
            (28, 256),
            "one kernel for readout, loss and their gradients; the gradient of W_hh in one",
        ),
        ((28, 260), "the gradient of W_hh by 3xTF32 products"),
        ((129, 257), "cuBLAS around a kernel for the loss; the gradient of W_hh by cuBLAS"),
    ],
)
def test_explain_names_what_trains(sizes, line):
    V, H = sizes
    with use_backend("cuda"):
        text = str(rnnfast.explain(models.ours(models.params(V, H))))
    (found,) = (each for each in text.splitlines() if f"training H={H} V={V}: " in each)
    assert line in found


def test_a_bad_target_shows_at_the_next_call():
    ids, targets, values = make_network(SHAPES[0], F32)
    targets = targets.clone()
    targets[2, 3] = 28
    loss_and_gradients(cuda, ids, targets, values, False)
    with pytest.raises(RuntimeError, match="target"):
        cuda.clip_grads_([torch.ones(3)], 1.0, True)
    cuda.clip_grads_([torch.ones(3)], 1.0, True)


@pytest.mark.parametrize("dtype", [F32, F64], ids=["f32", "f64"])
def test_the_first_complaint_stays(dtype):
    """About a target; an id of the minibatch after it is out of range as well."""
    ids, targets, (*params, h) = make_network((3, 2, 5, 7), dtype)
    bad, grads = torch.full((2, 3), 7), [torch.empty_like(p) for p in params]
    untyped.train_steps_(cuda, [ids.T, bad], [bad, targets.T], params, grads, h, 0.5, 1.0, False)
    with pytest.raises(RuntimeError, match="a target was not"):
        bridge.check(0)
    bridge.check(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grads": 4}, r"grads has 4 tensors; it must have 5"),
        ({"params": "strided"}, r"is not contiguous"),
        ({"h": "params"}, r"share memory"),
    ],
)
def test_a_step_refuses_what_does_not_fit(change, message):
    ids, targets, (*params, h) = make_network((2, 3, 5, 5), F32)
    grads = [torch.empty_like(p) for p in params]
    if "grads" in change:
        del grads[change["grads"] :]
    if "params" in change:
        params[1] = params[1].T
    if "h" in change:
        h = params[1][:3]
    with pytest.raises(RuntimeError, match=message):
        untyped.train_step_(cuda, ids, targets, params, grads, h, 0.1, 1.0, False)


WRONG = [
    (0, lambda ids: ids.int(), r"ids is int32 .* int64 \[T, B\] = \[2, 3\]"),
    (1, lambda targets: targets[:1], r"targets is int64 \[1, 3\]; .* = \[2, 3\]"),
    (1, lambda targets: targets.flatten(), r"targets is int64 \[6\]; it must"),
    (2, lambda W_xh: W_xh.half(), "W_xh is float16"),
    (3, lambda W_hh: W_hh[1:], r"W_hh is float32 \[4, 5\]; .* = \[5, 5\]"),
    (6, lambda b_q: b_q.double(), "b_q is float64"),
    (7, lambda h: h[:2], r"h0? is float32 \[2, 5\]; .* = \[3, 5\]"),
]


@pytest.mark.parametrize(("i", "change", "message"), WRONG)
def test_training_names_bad_arguments(i, change, message):
    ids, targets, values = make_network((2, 3, 5, 7), F32)
    arguments = [ids, targets, *values]
    arguments[i] = change(arguments[i])
    with pytest.raises(RuntimeError, match=message):
        untyped.rnn_cross_entropy(cuda, *arguments, False, True, True)
    grads, (*params, h) = [torch.empty_like(p) for p in values[:5]], arguments[2:]
    with pytest.raises(RuntimeError, match=message):
        untyped.train_step_(cuda, *arguments[:2], params, grads, h, 0.1, 1.0, False)
    if arguments[1].dim() == 1:  # of which no transpose is taken
        batches = ([ids.t().contiguous()], [arguments[1]])
        with pytest.raises(RuntimeError, match=r"targets is int64 \[6\]; it must have 2 dim"):
            untyped.train_steps_(cuda, *batches, params, grads, h, 0.1, 1.0, False)
    if 2 <= i < 7:
        params[i - 2], grads[i - 2] = values[i - 2], params[i - 2]
        with pytest.raises(RuntimeError, match=f"grads: {message}"):
            untyped.train_step_(cuda, *arguments[:2], params, grads, h, 0.1, 1.0, False)


# ---- clip


@pytest.mark.parametrize("d2l", [True, False])
@pytest.mark.parametrize("dtype", [F32, F64], ids=["f32", "f64"])
def test_clip_of_more_gradients_than_a_launch_takes(dtype, d2l):
    grads = [torch.randn(i % 7, 3, dtype=dtype) for i in range(150)]
    clipping.check(cuda.clip_grads_, grads, 0.5, d2l)


def test_clip_of_any_layout():
    wide = torch.randn(6, 7, 8, 9)
    grads = [
        wide.permute(2, 0, 3, 1),
        torch.randn(6, 7, 8, 9)[1:, ::2, :3, ::3],
        torch.randn(30, 40)[:, 5:20],
        torch.randn(9)[::2],
        torch.randn(5000)[::2],
        torch.tensor(3.0),
        torch.empty(0, 4),
        torch.randn(6, 7, 8, 9, dtype=F64).transpose(0, 2)[1:, ::2, :3, ::3],
    ]
    clipping.check(cuda.clip_grads_, grads, 0.5, True)


def test_clip_of_nothing_is_zero():
    assert cuda.clip_grads_([torch.empty(0)], 1.0, True).item() == 0


def test_clip_scales_what_is_listed_twice_twice():
    first, second = torch.full((5000,), 2.0), torch.full((4,), 1.0)
    grads = [first, second, first[100:]]
    want = [g.clone() for g in (first, second)]
    norm = (sum(g.double().pow(2).sum() for g in grads)) ** 0.5
    torch.testing.assert_close(cuda.clip_grads_(grads, 1.0, True), norm.float())
    factor = (1 / norm).float()
    want[0] *= factor
    want[0][100:] *= factor
    torch.testing.assert_close(first, want[0])
    torch.testing.assert_close(second, want[1] * factor)


def test_clip_launches_twice(driver):
    grads = [torch.randn(s) for s in ((28, 64), (64, 64), (64,), (64, 28), (28,))]
    cuda.clip_grads_(grads, 1.0, True)
    before = driver.emulated_driver_launches()
    cuda.clip_grads_(grads, 1.0, True)
    assert driver.emulated_driver_launches() - before == 2


@pytest.mark.parametrize(
    ("grad", "message"),
    [(torch.ones(3).half(), "float16"), (torch.ones(1).expand(3), "expanded")],
)
def test_clip_refuses_what_it_cannot_scale(grad, message):
    with pytest.raises(RuntimeError, match=rf"grads\[1\].*{message}"):
        cuda.clip_grads_([torch.ones(2), grad], 1.0, True)
