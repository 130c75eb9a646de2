"""rnnfast.nn.RNN against torch.nn.RNN: every combination of arguments, and what is around it."""

import copy
import itertools
import pickle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from rnnfast import nn, use_backend
from support.compare import assert_close_to_f64

CONFIGURATIONS = st.fixed_dictionaries(
    {
        "input_size": st.integers(1, 5),
        "hidden_size": st.integers(1, 19),
        "num_layers": st.integers(1, 3),
        "nonlinearity": st.sampled_from(["tanh", "relu"]),
        "bias": st.booleans(),
        "batch_first": st.booleans(),
        "dropout": st.sampled_from([0.0, 0.4]),
        "bidirectional": st.booleans(),
    }
)


def _twins(options, dtype):
    """Our layer and torch's from the same seed, with weights large enough for errors to live."""
    layers = []
    for cls in (nn.RNN, torch.nn.RNN):
        torch.manual_seed(1)
        layers.append(cls(**options, dtype=dtype))
    return layers


def _input(options, form, lengths):
    """Double precision, of a form; and hx for it."""
    B, T, features = len(lengths), max(lengths), options["input_size"]
    rows = options["num_layers"] * (1 + options["bidirectional"])
    hx = torch.randn(rows, B, options["hidden_size"]).double()
    if form == "unbatched":
        return torch.randn(T, features).double(), hx[:, 0]
    if form == "padded":
        return torch.randn(*((B, T) if options["batch_first"] else (T, B)), features).double(), hx
    if form == "sorted":
        lengths = sorted(lengths, reverse=True)
    sequences = [torch.randn(length, features).double() for length in lengths]
    return pack_sequence(sequences, enforce_sorted=form == "sorted"), hx


def _results(layer, x, hx, dtype):
    """Output, state and all gradients, with the names of what they are."""
    leaf = (x.data if isinstance(x, PackedSequence) else x).to(dtype).requires_grad_(True)
    inputs = [leaf]
    if isinstance(x, PackedSequence):
        leaf = PackedSequence(leaf, *x[1:])
    if hx is not None:
        hx = hx.to(dtype).requires_grad_(True)
        inputs.append(hx)
    torch.manual_seed(2)
    y, h = layer(leaf, hx)
    if isinstance(y, PackedSequence):
        assert torch.equal(y.batch_sizes, x.batch_sizes)
        assert (y.sorted_indices is None) == (x.sorted_indices is None)
        y = y.data
    torch.manual_seed(3)
    grads = torch.randn(y.shape).to(dtype), torch.randn(h.shape).to(dtype)
    wanted = [*inputs, *layer.parameters()]
    names = ["output", "state", "grad of input"] + ["grad of hx"] * (hx is not None)
    names += [f"grad of {name}" for name, _ in layer.named_parameters()]
    return dict(zip(names, (y, h, *torch.autograd.grad((y, h), wanted, grads)), strict=True))


def _part(results, name):
    """All gradients together: a single one of few elements may be the rest of a cancellation."""
    if name != "gradients":
        return results[name]
    return torch.cat([value.flatten() for key, value in results.items() if key.startswith("grad")])


@given(
    options=CONFIGURATIONS,
    form=st.sampled_from(["padded", "unbatched", "sorted", "unsorted"]),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    with_hx=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    backend=st.sampled_from(["auto", "reference"]),
)
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.filterwarnings("ignore:dropout option adds dropout")
def test_outputs_states_and_gradients(options, form, lengths, with_hx, dtype, backend):
    torch.manual_seed(0)
    x, hx = _input(options, form, lengths)
    hx = hx if with_hx else None
    ours, torchs = _twins(options, dtype)
    truth = copy.deepcopy(torchs).double()
    with use_backend(backend):
        got = _results(ours, x, hx, dtype)
    same, f64 = _results(torchs, x, hx, dtype), _results(truth, x, hx, torch.float64)
    assert got.keys() == same.keys()
    if dtype == torch.float64:
        torch.testing.assert_close(got, same)
    else:
        for name in ("output", "state", "gradients"):
            assert_close_to_f64(name, *(_part(results, name) for results in (got, same, f64)))


@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "nonlinearity": "relu"}, {"bias": False, "bidirectional": True}],
)
def test_the_same_seed_gives_the_same_parameters_and_text(options):
    ours, torchs = _twins({"input_size": 3, "hidden_size": 4, **options}, torch.float32)
    assert list(ours.state_dict()) == list(torchs.state_dict())
    for name, value in torchs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
    assert repr(ours) == repr(torchs)
    assert isinstance(ours, torch.nn.RNN)
    for layer in (ours, torchs):
        torch.manual_seed(5)
        layer.reset_parameters()
    assert torch.equal(ours.weight_hh_l0, torchs.weight_hh_l0)


def test_state_dict_goes_both_ways_and_copies_are_equal():
    ours, torchs = _twins({"input_size": 3, "hidden_size": 4, "bidirectional": True}, torch.float32)
    x = torch.randn(5, 2, 3)
    for source, target in ((ours, torchs), (torchs, ours)):
        torch.nn.init.normal_(source.weight_hh_l0)
        target.load_state_dict(source.state_dict())
        torch.testing.assert_close(target(x), source(x))
    for same in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(same) is nn.RNN
        assert torch.equal(same(x)[0], ours(x)[0])


def test_other_dtypes_and_devices():
    layer = nn.RNN(3, 4, 2)
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(layer.double()(x.double())[0].float(), layer.float()(x)[0])
    layer.flatten_parameters()
    for dtype in (torch.bfloat16, torch.float16):  # torch's own implementation, without a warning
        theirs = torch.nn.RNN(3, 4, 2).to(dtype)
        theirs.load_state_dict(layer.to(dtype).state_dict())
        y, h = layer(x.to(dtype))
        assert y.dtype == h.dtype == dtype
        assert torch.equal(y, theirs(x.to(dtype))[0])
    assert layer.to("meta")(x.to("meta", torch.float16))[0].device.type == "meta"


@pytest.mark.parametrize("axes", [1, 4])
def test_with_a_learnt_h0_other_dtypes_are_refused_in_torchs_words(axes):
    x = torch.zeros((3,) * axes, dtype=torch.float16)
    with pytest.raises(ValueError, match=f"Expected input to be 2D or 3D, got {axes}D"):
        nn.RNN(3, 4, learn_h0=True).half()(x)


def test_complex_numbers_are_torchs():
    ours, torchs = _twins({"input_size": 3, "hidden_size": 4}, torch.complex64)
    x = torch.randn(5, 2, 3, dtype=torch.complex64)
    for got, want in zip(ours(x), torchs(x), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_ids_are_one_hot_vectors(batch_first, bidirectional, backend_of_module):
    layer = nn.RNN(7, 4, 2, batch_first=batch_first, bidirectional=bidirectional)
    ids = torch.randint(7, (5, 3))
    forms = [ids, ids[:, 0], pack_sequence([ids[:n, i] for i, n in enumerate((2, 5, 3))], False)]
    for each in forms:
        if isinstance(each, PackedSequence):
            dense = PackedSequence(torch.nn.functional.one_hot(each.data, 7).float(), *each[1:])
        else:
            dense = torch.nn.functional.one_hot(each, 7).float()
        results = []
        for x in (each, dense):
            y, h = layer(x)
            y = y.data if isinstance(y, PackedSequence) else y
            grads = torch.autograd.grad(y.square().sum() + h.sum(), list(layer.parameters()))
            results.append((y, h, *grads))
        torch.testing.assert_close(*results)
    with pytest.raises(RuntimeError, match="Class values must be smaller"):
        layer(ids + 7 - ids)


BAD_CALLS = {
    "too many axes": lambda layer: layer(torch.zeros(2, 2, 2, 3)),
    "one axis": lambda layer: layer(torch.zeros(3)),
    "features": lambda layer: layer(torch.zeros(5, 2, 4)),
    "dtype": lambda layer: layer(torch.zeros(5, 2, 3).double()),
    "int32": lambda layer: layer(torch.zeros(5, 2, 3).int()),
    "no step": lambda layer: layer(torch.zeros(0, 2, 3)),
    "hx batched": lambda layer: layer(torch.zeros(5, 3), torch.zeros(2, 1, 4)),
    "hx unbatched": lambda layer: layer(torch.zeros(5, 2, 3), torch.zeros(2, 4)),
    "hx batch": lambda layer: layer(torch.zeros(5, 2, 3), torch.zeros(2, 3, 4)),
    "hx units": lambda layer: layer(torch.zeros(5, 2, 3), torch.zeros(2, 2, 5)),
    "hx layers": lambda layer: layer(torch.zeros(5, 2, 3), torch.zeros(3, 2, 4)),
    "hx dtype": lambda layer: layer(torch.zeros(5, 2, 3), torch.zeros(2, 2, 4).double()),
    "hx packed": lambda layer: layer(pack_sequence([torch.zeros(3, 3)]), torch.zeros(2, 3, 4)),
    "axes packed": lambda layer: layer(pack_sequence([torch.zeros(3, 1, 3)])),
    "features packed": lambda layer: layer(pack_sequence([torch.zeros(3, 4)])),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_are_refused_in_torchs_words(name, backend_of_module):
    ours, torchs = _twins({"input_size": 3, "hidden_size": 4, "num_layers": 2}, torch.float32)
    with pytest.raises(Exception) as theirs:  # noqa: PT011 -- whatever torch raises
        BAD_CALLS[name](torchs)
    with pytest.raises(theirs.type) as mine:
        BAD_CALLS[name](ours)
    assert str(mine.value) == str(theirs.value)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (([1.0],), "input"),
        ((torch.zeros(5, 2, 3), (torch.zeros(1, 2, 4),)), "hx"),
        ((torch.zeros(5, 2, 3), None, [True]), "resets"),
    ],
)
def test_what_is_no_tensor_is_named(arguments, name, backend_of_module):
    with pytest.raises(TypeError, match=f"^{name} is a"):
        nn.RNN(3, 4)(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"nonlinearity": "gelu"},
        {"dropout": 1.5},
        {"dropout": True},
        {"bias": "yes"},
        {"batch_first": 1},
        {"num_layers": 0},
        {"hidden_size": 0},
        {"hidden_size": 2.5},
        {"proj_size": 2},
        {"unknown": 1},
    ],
    ids=str,
)
def test_bad_arguments_are_refused_in_torchs_words(arguments):
    arguments = {"input_size": 3, "hidden_size": 4, **arguments}
    with pytest.raises(Exception) as theirs:  # noqa: PT011 -- whatever torch raises
        torch.nn.RNN(**arguments)
    with pytest.raises(theirs.type) as mine:
        nn.RNN(**arguments)
    assert str(mine.value) == str(theirs.value)


def test_an_empty_batch_gives_empty_results(backend_of_module):
    y, h = nn.RNN(3, 4, 2, bidirectional=True)(torch.zeros(5, 0, 3))
    assert y.shape == (5, 0, 8)
    assert h.shape == (4, 0, 4)


def test_the_state_can_be_detached_in_place(backend_of_module):
    layer = nn.RNN(3, 4)
    for bidirectional in (False, True):
        layer = nn.RNN(3, 4, bidirectional=bidirectional)
        _, h = layer(torch.randn(5, 2, 3))
        h.detach_()
        assert not h.requires_grad
        layer(torch.randn(5, 2, 3), h)[0].sum().backward()


def test_computed_weights_are_the_ones_used(backend_of_module):
    ours, torchs = _twins({"input_size": 3, "hidden_size": 4}, torch.float32)
    x = torch.randn(5, 2, 3)
    for layer in (ours, torchs):
        torch.nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
        torch.nn.utils.weight_norm(layer, "weight_ih_l0")
        for parameter in layer.parameters():
            torch.nn.init.constant_(parameter, 0.3)
    results = []
    for layer in (ours, torchs):
        y, _ = layer(x)
        results.append((y, *torch.autograd.grad(y.sum(), list(layer.parameters()))))
    torch.testing.assert_close(*results)


def test_a_constrained_weight_is_computed_once_per_call(backend_of_module):
    calls = []

    class Counted(torch.nn.Module):
        def forward(self, V):
            calls.append(1)
            return V

    layer = nn.RNN(3, 4)
    torch.nn.utils.parametrize.register_parametrization(layer, "weight_hh_l0", Counted())
    calls.clear()
    layer(torch.randn(5, 2, 3))
    assert len(calls) == 1


@pytest.mark.parametrize("bidirectional", [False, True])
def test_no_two_gradients_share_memory(bidirectional):
    """Clipping in place would scale them twice."""
    module = nn.RNN(3, 5, bidirectional=bidirectional)
    module(torch.randn(4, 2, 3))[0].sum().backward()
    spans = sorted((p.grad.data_ptr(), p.grad.nbytes) for p in module.parameters())
    for (start, size), (following, _) in itertools.pairwise(spans):
        assert start + size <= following
