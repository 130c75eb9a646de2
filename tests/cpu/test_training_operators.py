"""The kernels of the loss and of the whole training step, against the reference in float64."""

import pytest
import torch
from torch import Tensor

from rnnfast.backends.compiled import native
from rnnfast.backends.reference import reference
from support import untyped
from support.training_calls import check, loss_and_gradients, make, whole_step

NAMES = ("W_xh", "W_hh", "b_h", "W_hq", "b_q")
# Rows split, columns split, one row (with its norm taken before the gradients; in whole vectors,
# too; cut between the workers from H = 256 on, with and without that norm and with one step), a
# table with more rows than tokens, several panels of classes, and columns split of several rows.
SHAPES = [
    (35, 32, 64, 28),
    (6, 5, 130, 70),
    (20, 1, 300, 28),
    (35, 1, 200, 5),
    (9, 1, 48, 6),
    (40, 1, 270, 28),
    (100, 1, 256, 9),
    (1, 1, 300, 28),
    (2, 2, 17, 100),
    (1, 1, 1, 1),
    (3, 33, 70, 200),
    (3, 9, 700, 28),
]


@pytest.mark.parametrize("relu", [False, True], ids=["tanh", "relu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients(shape: tuple[int, ...], dtype: torch.dtype, relu: bool) -> None:
    check(loss_and_gradients, relu, shape, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_alone(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    ids, targets, values = make(shape, dtype)
    *_, h_last, loss = loss_and_gradients(native, ids, targets, values, False)
    for need_h0 in (False, True):  # one of the gradients
        alone = untyped.rnn_cross_entropy(native, ids, targets, *values, False, False, need_h0)
        assert torch.equal(alone[0], loss)
        assert torch.equal(alone[1], h_last)
        assert all(grad.numel() == 0 for grad in alone[2:])


def added_gradients(
    backend: object, ids: Tensor, targets: Tensor, values: list[Tensor], relu: bool
) -> list[Tensor]:
    """Gradients added to copies of the parameters; last the new state and the loss."""
    *params, h = values
    grads = [p.clone() for p in params]
    if backend is native:
        loss, h_last = untyped.rnn_cross_entropy_grads_(
            native, ids, targets, params, grads, h, relu
        )
    else:
        *new, _, h_last, loss = loss_and_gradients(backend, ids, targets, values, relu)
        grads = [grad + each for grad, each in zip(grads, new, strict=True)]
    return [*grads, h_last, loss]


@pytest.mark.parametrize("relu", [False, True], ids=["tanh", "relu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_added(shape: tuple[int, ...], dtype: torch.dtype, relu: bool) -> None:
    check(added_gradients, relu, shape, dtype)


def test_strided_arguments() -> None:
    ids, targets, values = make((5, 3, 40, 28), torch.float32)
    strided = [torch.stack((v, v), -1)[..., 0] for v in values]
    for run, other in (
        (loss_and_gradients, strided),
        (added_gradients, [*values[:5], strided[5]]),  # the parameters must be contiguous there
    ):
        want = run(native, ids, targets, values, False)
        for a, b in zip(run(native, ids, targets, other, False), want, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_added_to_zeros_are_the_new_ones_bit_for_bit(shape: tuple[int, ...]) -> None:
    ids, targets, values = make(shape, torch.float32)
    grads = [torch.zeros_like(v) for v in values[:5]]
    loss, h_last = untyped.rnn_cross_entropy_grads_(
        native, ids, targets, values[:5], grads, values[5], False
    )
    *want, _, want_h, want_loss = loss_and_gradients(native, ids, targets, values, False)
    for a, b in zip([*grads, h_last, loss], [*want, want_h, want_loss], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda ids, grads: ids.fill_(-1), "ids"),
        (lambda ids, grads: grads.__setitem__(1, grads[1].T), "not contiguous"),
        (lambda ids, grads: grads.__setitem__(4, grads[3].view(-1)[:28]), "share memory"),
        (lambda ids, grads: grads.__setitem__(2, grads[2].double()), "grads: b_h"),
    ],
)
def test_refused_gradients_have_not_changed(spoil, message) -> None:
    ids, targets, (*params, h) = make((5, 3, 40, 28), torch.float32)
    grads = [torch.zeros_like(p) for p in params]
    spoil(ids, grads)
    with pytest.raises(RuntimeError, match=message):
        untyped.rnn_cross_entropy_grads_(native, ids, targets, params, grads, h, False)
    assert not any(grad.any() for grad in grads)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(ids=a["ids"][:0]), "T, the number of steps, is 0"),
        (lambda a: a.update(ids=a["ids"][:, :0]), "B, the number of sequences, is 0"),
        (lambda a: a.update(targets=a["targets"][1:]), "targets is int64 .4, 3."),
        (lambda a: a["params"].append(a["params"][0]), "params has 6 tensors"),
        (lambda a: a["grads"].append(a["grads"][0]), "grads has 6 tensors"),
        (lambda a: a.update(h0=a["h0"][1:]), "h0 is float32 .2, 40."),
    ],
)
def test_refuses_what_does_not_fit(change, message) -> None:
    ids, targets, (*params, h0) = make((5, 3, 40, 28), torch.float32)
    grads = [torch.zeros_like(p) for p in params]
    arguments = {"ids": ids, "targets": targets, "params": params, "grads": grads, "h0": h0}
    change(arguments)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.rnnfast.rnn_cross_entropy_grads_(*arguments.values(), 0)


def test_tensors_may_lie_side_by_side_in_one_buffer() -> None:
    ids, targets, values = make((5, 3, 40, 28), torch.float32)
    want = [v.clone() for v in (*values[:5], *map(torch.zeros_like, values[:5]), values[5])]
    buffer = torch.cat([v.flatten() for v in want])
    parts = buffer.split([v.numel() for v in want])
    got = [part.view_as(v) for part, v in zip(parts, want, strict=True)]
    for each in (want, got):
        rest = (each[:5], each[5:10], each[10], 0.5, 1.0, False)
        untyped.train_step_(native, ids, targets, *rest)
    assert all(map(torch.equal, got, want))


@pytest.mark.parametrize("max_norm", [1e-3, 1e9, float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_whole_step(shape: tuple[int, ...], dtype: torch.dtype, max_norm: float) -> None:
    check(whole_step, max_norm, shape, dtype)


@pytest.mark.parametrize("max_norm", [1e-3, float("inf")])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_moves_the_same_where_gradients_are_not_kept(
    shape: tuple[int, ...], max_norm: float
) -> None:
    ids, targets, values = make(shape, torch.float32)
    *want, h, loss = whole_step(native, ids, targets, values, max_norm)
    *params, state = [v.clone() for v in values]
    grads = [torch.full_like(p, float("nan")) for p in params]
    arguments = (ids, targets, params, grads, state, 0.5, max_norm, False)
    assert torch.equal(untyped.train_step_(native, *arguments, keep_grads=False), loss)
    for name, a, b in zip([*NAMES, "h"], [*params, state], [*want[:5], h], strict=True):
        assert torch.equal(a, b), name


def test_a_single_rows_gradients_are_left_out_where_nobody_looks() -> None:
    ids, targets, values = make((20, 1, 64, 28), torch.float32)
    *params, state = values
    grads = [torch.full_like(p, float("nan")) for p in params]
    untyped.train_step_(
        native, ids, targets, params, grads, state, 0.5, 1.0, False, keep_grads=False
    )
    assert grads[1].isnan().all()


@pytest.mark.parametrize("batch", [1, 32])
def test_squares_of_gradients_may_overflow(batch: int) -> None:
    """With few rows the norm is taken before the gradients, from products that overflow as well."""
    ids, targets, values = make((20, batch, 64, 28), torch.float32)
    values[3] *= 1e21
    got = whole_step(native, ids, targets, values, 1.0)[6:11]
    truth = whole_step(reference, ids, targets, [v.double() for v in values], 1.0)
    norm = torch.cat([g.double().flatten() for g in got]).norm()
    assert norm.item() == pytest.approx(1.0, rel=1e-5)
    for name, a, b in zip(NAMES, got, truth[6:11], strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-6, msg=f"gradient of {name}")
