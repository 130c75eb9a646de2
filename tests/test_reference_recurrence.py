"""The recurrence of the specification in all its forms: gradients by gradcheck, rows one by one."""

import pytest
import torch

from rnnfast.backends import Needs, Recurrence, reference_recurrence

T, B, H = 4, 3, 5
LENGTHS = [4, 3, 1]
BATCH_SIZES = torch.tensor([3, 2, 2, 1])


def _call(cell="tanh", packed=False, both=False, transposed=False, reverse=False, resets="no"):
    """A call in float64 whose tensors are leaves."""

    def leaf(*shape):
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    directions = (2,) if both else ()
    rows = (int(BATCH_SIZES.sum()),) if packed else (T, B)
    leaky = cell.startswith("leaky")
    return Recurrence(
        cell,
        leaf(*rows, 2 * H if both else H),
        None,
        leaf(*directions, H, H),
        leaf(*directions, H),
        leaf(*directions, B, H),
        transposed,
        reverse,
        BATCH_SIZES if packed else None,
        torch.rand(T, B) < 0.4 if resets != "no" else None,
        resets == "to h0",
        torch.rand(*directions, H, dtype=torch.float64).requires_grad_(True) if leaky else None,
    )


def _leaves(r):
    return [each for each in (r.x, r.W_hh, r.b_h, r.h0, r.leak) if each is not None]


FORMS = [
    {},
    {"transposed": True, "reverse": True},
    {"cell": "relu", "packed": True},
    {"packed": True, "reverse": True, "transposed": True},
    {"both": True, "packed": True, "transposed": True},
    {"both": True, "cell": "leaky_tanh"},
    {"resets": "to zero"},
    {"resets": "to h0", "packed": True, "reverse": True},
    {"resets": "to h0", "cell": "leaky_relu", "transposed": True},
    {"cell": "leaky_tanh", "packed": True, "resets": "to zero"},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_backward_is_the_derivative_of_forward(form):
    r = _call(**form)
    hs, h_last, saved = reference_recurrence.forward(r)
    grads = torch.randn_like(hs), torch.randn_like(h_last)
    want = torch.autograd.grad((hs, h_last), _leaves(r), grads)
    got = reference_recurrence.backward(r, 0, hs, saved, *grads, Needs())
    for name, g, w in zip(("x", "W_hh", "b_h", "h0", "leak"), got, want, strict=False):
        torch.testing.assert_close(g, w, msg=lambda m, name=name: f"grad_{name}: {m}")


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_gradcheck(form):
    r = _call(**form)
    names = [name for name in ("x", "W_hh", "b_h", "h0", "leak") if getattr(r, name) is not None]

    def run(*leaves):
        call = r._replace(**dict(zip(names, leaves, strict=True)))
        return reference_recurrence.forward(call)[:2]

    assert torch.autograd.gradcheck(run, _leaves(r))


@pytest.mark.parametrize("reverse", [False, True])
def test_packed_rows_are_as_if_alone(reverse):
    r = _call(packed=True, reverse=reverse)
    hs, h_last, _ = reference_recurrence.forward(r)
    starts = torch.cat((torch.zeros(1, dtype=torch.int64), BATCH_SIZES.cumsum(0)[:-1]))
    for n, length in enumerate(LENGTHS):
        rows = starts[:length] + n
        alone = r._replace(x=r.x[rows, None], h0=r.h0[n : n + 1], batch_sizes=None)
        want, last, _ = reference_recurrence.forward(alone)
        torch.testing.assert_close(hs[rows], want[:, 0])
        torch.testing.assert_close(h_last[n], last[0])


def test_a_reset_starts_a_new_sequence():
    r = _call()
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[2] = True
    for to_h0 in (False, True):
        call = r._replace(resets=resets, resets_to_h0=to_h0)
        hs, _, _ = reference_recurrence.forward(call)
        start = r.h0 if to_h0 else torch.zeros_like(r.h0)
        want, _, _ = reference_recurrence.forward(r._replace(x=r.x[2:], h0=start))
        torch.testing.assert_close(hs[2:], want)
        torch.testing.assert_close(hs[:2], reference_recurrence.forward(r)[0][:2])


def test_both_directions_are_one_after_the_other():
    r = _call(both=True)
    hs, h_last, _ = reference_recurrence.forward(r)
    for i, reverse in enumerate((False, True)):
        half = slice(i * H, i * H + H)
        one = r._replace(
            x=r.x[..., half], W_hh=r.W_hh[i], b_h=r.b_h[i], h0=r.h0[i], reverse=reverse
        )
        want, last, _ = reference_recurrence.forward(one)
        torch.testing.assert_close(hs[..., half], want)
        torch.testing.assert_close(h_last[i], last)


@pytest.mark.parametrize("cell", ["tanh", "relu"])
def test_a_leak_of_one_is_the_plain_cell(cell):
    r = _call(cell)
    leaky = r._replace(cell=f"leaky_{cell}", leak=torch.ones(H, dtype=torch.float64))
    want, got = reference_recurrence.forward(r), reference_recurrence.forward(leaky)
    torch.testing.assert_close(got[0], want[0])


def test_a_leaky_step_follows_its_equation():
    r = _call("leaky_tanh")
    hs, _, _ = reference_recurrence.forward(r)
    h = r.h0
    for t in range(T):
        h = (1 - r.leak) * h + r.leak * torch.tanh(r.x[t] + h @ r.W_hh + r.b_h)
        torch.testing.assert_close(hs[t], h)


def test_a_unit_at_rest_passes_no_infinite_gradient():
    """0 times infinity would be NaN, where torch's relu gives 0."""
    r = _call("relu")
    r = r._replace(x=torch.full((T, B, H), -9.0, dtype=torch.float64), h0=torch.zeros_like(r.h0))
    hs, _, _ = reference_recurrence.forward(r)
    grad_hs = torch.full_like(hs, torch.inf)
    made = reference_recurrence.backward(r, 0, hs, None, grad_hs, None, Needs(True, True, True))
    assert not hs.any()
    assert not made.x.any()
    assert not made.W_hh.any()
