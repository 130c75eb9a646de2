"""What torch.nn.RNN does not have: leaky cells, resets, noise, a learnt h0, constraints."""

import copy

import pytest
import torch
from torch.nn.utils.parametrize import register_parametrization
from torch.nn.utils.rnn import pack_sequence

from rnnfast import FallbackWarning, nn, use_backend
from rnnfast.nn.constraints import Dale, Sparse

pytestmark = pytest.mark.usefixtures("backend_of_module")
T, B, V, H = 6, 3, 4, 5


def _step(layer, x, h, leak=None):
    z = x @ layer.weight_ih_l0.T + layer.bias_ih_l0 + h @ layer.weight_hh_l0.T + layer.bias_hh_l0
    return torch.tanh(z) if leak is None else (1 - leak) * h + leak * torch.tanh(z)


@pytest.mark.parametrize("leak", [0.3, torch.linspace(0.1, 1, H)])
@pytest.mark.parametrize("learn_leak", [False, True])
def test_a_leaky_layer_follows_its_equation(leak, learn_leak):
    layer = nn.RNN(V, H, leak=leak, learn_leak=learn_leak)
    x, h = torch.randn(T, B, V), torch.randn(B, H)
    y, h_n = layer(x, h[None])
    for t in range(T):
        h = _step(layer, x[t], h, layer.leak)
        torch.testing.assert_close(y[t], h)
    torch.testing.assert_close(h_n[0], h)
    got = torch.autograd.grad(y[-1].sum(), list(layer.parameters()))
    torch.testing.assert_close(got, torch.autograd.grad(h.sum(), list(layer.parameters())))
    assert len(got) == 4 + learn_leak


@pytest.mark.parametrize("noise", [-0.1, float("nan")])
def test_a_noise_that_is_none_is_refused(noise):
    with pytest.raises(ValueError, match="noise is"):
        nn.RNN(V, H, noise=noise)


@pytest.mark.parametrize("leak", [0.0, 1.5, float("nan"), torch.ones(H + 1)])
def test_a_leak_that_is_none_is_refused(leak):
    with pytest.raises(ValueError, match="leak"):
        nn.RNN(V, H, leak=leak)
    with pytest.raises(ValueError, match="learn_leak needs"):
        nn.RNN(V, H, learn_leak=True)


@pytest.mark.parametrize("learn_leak", [False, True])
def test_a_leak_is_a_copy_that_sends_nothing_back(learn_leak):
    given = torch.full((H,), 0.5, requires_grad=True)
    layer = nn.RNN(V, H, leak=given, learn_leak=learn_leak)
    copy.deepcopy(layer)(torch.randn(T, B, V))[0].sum().backward()
    assert layer.leak.requires_grad == learn_leak
    assert layer.leak.data_ptr() != given.data_ptr()
    assert given.grad is None


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_leaky_layer_without_memory_takes_a_state_dict(device):
    same, x = nn.RNN(V, H, leak=torch.linspace(0.1, 1, H)), torch.randn(T, B, V)
    with torch.device("meta"):
        layer = nn.RNN(V, H, leak=torch.ones(H, device=device))
        with pytest.raises(ValueError, match=r"leak is 1\.5"):
            nn.RNN(V, H, leak=1.5)
    layer.load_state_dict(same.state_dict(), assign=True)
    torch.testing.assert_close(layer(x), same(x))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_reset_starts_a_new_sequence(batch_first, num_layers):
    layer = nn.RNN(V, H, num_layers, batch_first=batch_first)
    x, h = torch.randn(T, B, V), torch.randn(num_layers, B, H)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[2, 1] = True
    given = (x.transpose(0, 1), resets.T) if batch_first else (x, resets)
    y, _ = layer(given[0], h, resets=given[1])
    y = y.transpose(0, 1) if batch_first else y
    plain, _ = layer(given[0], h)
    plain = plain.transpose(0, 1) if batch_first else plain
    torch.testing.assert_close(y[:, [0, 2]], plain[:, [0, 2]])
    torch.testing.assert_close(y[:2], plain[:2])
    torch.testing.assert_close(y[2:, 1], layer(x[2:, 1])[0])
    unbatched, _ = layer(x[:, 1], h[:, 1], resets=resets[:, 1])
    torch.testing.assert_close(unbatched, y[:, 1])


def test_resets_of_packed_sequences_are_those_of_their_rows():
    layer, lengths = nn.RNN(V, H), (2, 6, 4)
    x = [torch.randn(length, V) for length in lengths]
    resets = torch.rand(T, B) < 0.3
    _, h_n = layer(pack_sequence(x, enforce_sorted=False), resets=resets)
    for i, length in enumerate(lengths):
        _, alone = layer(x[i], resets=resets[:length, i])
        torch.testing.assert_close(h_n[:, i], alone)


@pytest.mark.parametrize("form", ["padded", "packed", "batch first"])
def test_in_both_directions_each_episode_is_a_sequence_of_its_own(form):
    layer = nn.RNN(V, H, 2, bidirectional=True, batch_first=form == "batch first")
    x, hx = torch.randn(T, B, V), torch.randn(4, B, H)
    lengths = (6, 5, 2) if form == "packed" else (T, T, T)
    starts = [(0, 2, 3), (0, 4), (0,)]
    resets = torch.zeros(T, B, dtype=torch.bool)
    for n, of_row in enumerate(starts):
        resets[list(of_row[1:]), n] = True
        resets[lengths[n] :, n] = True  # no step is there
    if form == "packed":
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths))
        y, h_n = layer(packed, hx, resets=resets)
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y)
    elif form == "batch first":
        y, h_n = layer(x.transpose(0, 1), hx, resets=resets.T)
        y = y.transpose(0, 1)
    else:
        y, h_n = layer(x, hx, resets=resets)
    want = torch.zeros_like(y)
    for n, of_row in enumerate(starts):
        for start, end in zip(of_row, (*of_row[1:], lengths[n]), strict=True):
            h0 = torch.zeros(2, 2, H)  # layers, directions
            if start == 0:
                h0[:, 0] = hx[[0, 2], n]
            if end == lengths[n]:
                h0[:, 1] = hx[[1, 3], n]
            episode = x[start:end, n : n + 1].transpose(0, int(layer.batch_first))
            out, last = layer(episode, h0.view(4, 1, H))
            want[start:end, n] = out.transpose(0, int(layer.batch_first))[:, 0]
            if end == lengths[n]:
                torch.testing.assert_close(h_n[[0, 2], n], last[[0, 2], 0])
            if start == 0:
                torch.testing.assert_close(h_n[[1, 3], n], last[[1, 3], 0])
    torch.testing.assert_close(y, want)


def test_a_short_call_of_a_wide_layer_is_that_of_a_long_one():
    """Few steps in both directions take a call for each, without joining their weights."""
    layer = nn.RNN(V, 512, bidirectional=True, leak=0.4)
    x = torch.randn(8, 2, V)
    results = []
    for rows in (x, x[:, :1]):
        y, h = layer(rows)
        results.append((y[:, 0], h[:, 0], *torch.autograd.grad(y[:, 0].sum(), layer.parameters())))
    torch.testing.assert_close(*results)


def test_noise_is_the_generators_and_of_its_size():
    layer = nn.RNN(V, H, noise=0.1)
    x = torch.zeros(T, 2000, V)
    y, again = (layer(x, generator=torch.Generator().manual_seed(3))[0] for _ in range(2))
    assert torch.equal(y, again)
    assert not torch.equal(y, layer(x)[0])
    z = torch.atanh(y[0]) - layer.bias_ih_l0 - layer.bias_hh_l0
    assert z.std().item() == pytest.approx(0.1, rel=0.05)
    assert abs(z.mean().item()) < 0.01
    layer.noise = 0.0
    assert torch.equal(layer(x)[0], layer(x)[0])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_a_learnt_h0_is_the_state_at_the_start(dtype, batch_first):
    """Of torch's own implementation, too, which takes half precision."""
    options = {"batch_first": batch_first, "bidirectional": True, "dtype": dtype}
    layer = nn.RNN(V, H, 2, learn_h0=True, **options)
    assert not layer.h0.any()
    x = torch.randn((B, T, V) if batch_first else (T, B, V), dtype=dtype)
    torch.nn.init.normal_(layer.h0)
    h0 = layer.h0.detach()[:, None].expand(-1, B, -1).requires_grad_(True)
    want, got = layer(x, h0)[0], layer(x)[0]
    torch.testing.assert_close(got, want)
    got.square().sum().backward()
    (grad,) = torch.autograd.grad(want.square().sum(), h0)
    torch.testing.assert_close(layer.h0.grad, grad.sum(1))
    rows = x.unbind(0 if batch_first else 1)
    torch.testing.assert_close(layer(rows[0])[0], layer(rows[0], h0[:, 0])[0])
    sequences = [row[:n] for row, n in zip(rows, (2, 6, 4), strict=True)]
    lengths = pack_sequence(sequences, enforce_sorted=False)
    torch.testing.assert_close(layer(lengths)[1], layer(lengths, h0)[1])


def test_a_leak_is_copied():
    given = torch.full((H,), 0.5)
    layer = nn.RNN(V, H, leak=given)
    given.zero_()
    assert layer.leak.tolist() == [0.5] * H


def test_options_are_copied_and_reset_and_printed():
    layer = nn.RNN(V, H, leak=0.5, learn_leak=True, learn_h0=True, noise=0.1)
    torch.nn.init.normal_(layer.h0)
    same = copy.deepcopy(layer)
    same.load_state_dict(layer.state_dict())
    assert torch.equal(same.h0, layer.h0)
    layer.reset_parameters()
    assert not layer.h0.any()
    assert layer.leak == 0.5
    assert "leaky, learn_leak=True, learn_h0=True, noise=0.1" in repr(layer)
    assert layer.double()(torch.randn(T, B, V).double())[0].dtype == torch.float64


@pytest.mark.parametrize("options", [{"leak": 0.4, "learn_leak": True}, {"learn_h0": True}, {}])
def test_gradcheck(options):
    layer = nn.RNN(V, H, dtype=torch.float64, **options)
    resets = torch.rand(T, B) < 0.3
    names, leaves = zip(*layer.named_parameters(), strict=True)
    x = torch.randn(T, B, V, dtype=torch.float64, requires_grad=True)

    def run(x, *leaves):
        parameters = dict(zip(names, leaves, strict=True))
        return torch.func.functional_call(layer, parameters, (x,), {"resets": resets})[0]

    assert torch.autograd.gradcheck(run, (x, *leaves))


@pytest.mark.filterwarnings("default::rnnfast.FallbackWarning")
@pytest.mark.parametrize("bidirectional", [False, True])
def test_double_backward_of_a_leaky_layer(bidirectional):
    options = {"bidirectional": bidirectional, "dtype": torch.float64}
    layer = nn.RNN(2, 3, leak=0.4, learn_leak=True, **options)
    names, leaves = zip(*layer.named_parameters(), strict=True)
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)

    def run(x, *leaves):
        parameters = dict(zip(names, leaves, strict=True))
        return torch.func.functional_call(layer, parameters, (x,))[0]

    assert torch.autograd.gradgradcheck(run, (x, *leaves))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"resets": torch.zeros(T, 1, dtype=torch.bool)}, RuntimeError, "resets is"),
        ({"resets": torch.zeros(T + 1, B, dtype=torch.bool)}, RuntimeError, "resets is"),
        ({"resets": torch.zeros(T, B)}, RuntimeError, "resets is"),
        ({"generator": 5}, TypeError, "generator is 5, must be"),
    ],
)
def test_what_torch_does_not_know_is_named_where_it_does_not_fit(given, error, message):
    with pytest.raises(error, match=message):
        nn.RNN(V, H, noise=0.1)(torch.randn(T, B, V), **given)


PACKED = pack_sequence([torch.zeros(n, V) for n in (2, T, 4)], enforce_sorted=False)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    ("input", "shape"),
    [
        (torch.zeros(B, T, V), (T + 1, B)),
        (torch.zeros(B, T).long(), (T, 1)),
        (torch.zeros(T, V), (T + 1,)),
        (torch.zeros(T, V), (T, 1)),
        (torch.zeros(T).long(), (T, V)),
        (PACKED, (T, B + 1)),  # rows that the order of the sequences leaves out
        (PACKED, (T, B - 1)),
        (PACKED, (T,)),
    ],
)
def test_resets_of_a_wrong_shape_are_named_as_they_were_given(input, shape, batch_first):
    is_batched = isinstance(input, torch.nn.utils.rnn.PackedSequence) or len(input) == B
    want, given = ((T, B), shape) if is_batched else ((T,), shape)
    if batch_first and is_batched:
        want, given = want[::-1], given[::-1]
    elif is_batched and isinstance(input, torch.Tensor):
        input = input.transpose(0, 1)
    resets = torch.zeros(given, dtype=torch.bool)
    with pytest.raises(RuntimeError) as error:
        nn.RNN(V, H, batch_first=batch_first)(input, resets=resets)
    expected = f"resets is a bool tensor of shape {given}, must be a bool tensor of shape {want}"
    assert str(error.value) == expected


@pytest.mark.parametrize(
    "input", [torch.zeros(T, B, V + 1), torch.zeros(T, B, V).double(), torch.zeros(V), PACKED]
)
def test_beside_resets_an_input_is_refused_in_torchs_words(input):
    hx = torch.zeros(1, B, H + 1) if input is PACKED else None
    with pytest.raises(Exception) as theirs:  # noqa: PT011 -- whatever torch raises
        torch.nn.RNN(V, H)(input, hx)
    with pytest.raises(theirs.type) as mine:
        nn.RNN(V, H)(input, hx, resets=torch.zeros(T, B, dtype=torch.bool))
    assert str(mine.value) == str(theirs.value)


@pytest.mark.parametrize(
    ("input", "axes"),
    [
        (torch.zeros(T, B, V).long(), r"\[T, B\] or \[T\]"),
        (torch.tensor(1), r"\[T, B\] or \[T\]"),
        (pack_sequence([torch.zeros(T, V).long()]), r"\[N\]"),
    ],
)
def test_integers_that_are_no_ids_are_named(input, axes):
    with pytest.raises(ValueError, match=f"^input is an int64 tensor .* must be token ids {axes}"):
        nn.RNN(V, H)(input)


def test_half_precision_needs_the_reference():
    layer = nn.RNN(V, H, leak=0.5).bfloat16()
    x = torch.randn(T, B, V).bfloat16()
    with use_backend("auto"), pytest.warns(FallbackWarning, match="bfloat16"):
        assert layer(x)[0].dtype == torch.bfloat16


def test_constraints_hold_while_training():
    signs = torch.tensor([1, 1, 1, -1, -1])
    mask = torch.rand(H, H) < 0.6
    layer = nn.RNN(V, H)
    free = layer.weight_hh_l0.detach().clone()
    register_parametrization(layer, "weight_hh_l0", Dale(signs))
    register_parametrization(layer, "weight_hh_l0", Sparse(mask))
    torch.testing.assert_close(layer.weight_hh_l0, free.abs() * signs * mask)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.randn(T, B, V))[0].square().sum().backward()
        optimizer.step()
    W = layer.weight_hh_l0
    assert not torch.equal(W, free.abs() * signs * mask)
    assert (W * signs >= 0).all()
    assert not W[~mask].any()
    stored = layer.parametrizations.weight_hh_l0.original
    assert not stored.grad[~mask].any()


@pytest.mark.parametrize("constraint", [Dale(torch.ones(H)), Sparse(torch.ones(H, H))])
def test_an_assigned_weight_is_copied(constraint):
    layer, W = nn.RNN(V, H), torch.rand(H, H)
    register_parametrization(layer, "weight_hh_l0", constraint)
    layer.weight_hh_l0, want = W, W.clone()
    W.zero_()
    assert torch.equal(layer.weight_hh_l0, want)


def test_masks_and_signs_may_be_numbers():
    """A mask counts what is not 0, signs what is above it; both move with the layer."""
    numbers, V = torch.tensor([0.0, 0.5, -2.0]), torch.ones(3, 3)
    dale, sparse = Dale(numbers), Sparse(numbers.expand(3, 3))
    torch.testing.assert_close(dale(V), torch.tensor([-1.0, 1.0, -1.0]).expand(3, 3))
    torch.testing.assert_close(sparse(V), torch.tensor([0.0, 1.0, 1.0]).expand(3, 3))
    assert dale.to("meta").signs.is_meta
    assert sparse.to("meta").mask.is_meta


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (Dale(torch.ones(H + 1)), r"signs has shape \(6,\), must be \(5,\)"),
        (Sparse(torch.ones(H, H + 1)), r"mask has shape \(5, 6\), must be \(5, 5\)"),
    ],
)
def test_constraints_of_another_shape_are_refused(constraint, message):
    with pytest.raises(ValueError, match=message):
        register_parametrization(nn.RNN(V, H), "weight_hh_l0", constraint)
