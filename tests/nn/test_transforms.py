"""RNN under what torch does with modules: compile, export, transforms, checkpoints, autocast."""

import copy

import pytest
import torch
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads
from torch.nn.utils.rnn import pack_sequence

from rnnfast import FallbackWarning, nn

T, B, V, H = 5, 3, 4, 6
FORMS = {
    "one layer": {},
    "two directions": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "relu": {"nonlinearity": "relu", "bias": False},
}


@pytest.fixture(params=FORMS)
def twins(request):
    """Our layer and torch's, with equal parameters."""
    ours = nn.RNN(V, H, **FORMS[request.param])
    theirs = torch.nn.RNN(V, H, **FORMS[request.param])
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.fixture
def fresh_dynamo():
    """What earlier tests compiled counts towards Dynamo's limit of recompilations."""
    torch._dynamo.reset()


def _loss(layer, x):
    y, h = layer(x)
    return (y.data if isinstance(y, torch.nn.utils.rnn.PackedSequence) else y).sin().sum() + h.sum()


def _gradients(loss, layer, **kwargs):
    return torch.autograd.grad(loss, list(layer.parameters()), **kwargs)


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_compile_fullgraph(twins, packed, inside):
    ours, _ = twins
    x = torch.randn(T, B, V)
    if packed:
        x = pack_sequence([torch.randn(n, V) for n in (5, 3, 2)])
    run = torch.nn.Sequential(ours) if inside else ours
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    got, want = _loss(compiled, x), _loss(ours, x)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(_gradients(got, ours), _gradients(want, ours))
    with torch.no_grad():
        torch.testing.assert_close(_loss(compiled, x), want.detach())


def test_torchs_own_layers_are_compiled_as_ever():
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(torch.nn.RNN(V, H), fullgraph=True, backend="aot_eager")(torch.randn(T, B, V))


@pytest.mark.usefixtures("fresh_dynamo")
def test_compile_with_ids_and_resets():
    layer = nn.RNN(V, H)
    ids, resets = torch.randint(V, (T, B)), torch.rand(T, B) < 0.4
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ids), layer(ids))
    torch.testing.assert_close(compiled(ids, resets=resets), layer(ids, resets=resets))
    for sort in (True, False):
        packed = pack_sequence([torch.randn(n, V) for n in (5, 3, 2)], enforce_sorted=sort)
        got, want = compiled(packed, resets=resets), layer(packed, resets=resets)
        torch.testing.assert_close((got[0].data, got[1]), (want[0].data, want[1]))


def test_export_and_reload(twins, tmp_path):
    ours, _ = twins
    x, hx = torch.randn(T, B, V), torch.randn(ours._rows(), T if ours.batch_first else B, H)
    program = torch.export.export(ours, (x, hx))
    torch.export.save(program, tmp_path / "rnn.pt2")
    again = torch.export.load(tmp_path / "rnn.pt2").module()
    torch.testing.assert_close(again(x, hx), ours(x, hx))


@pytest.mark.filterwarnings("ignore:The tensor attributes")
def test_an_exported_layer_takes_sequences_of_any_length():
    layer = nn.RNN(V, 512, bidirectional=True)
    length = torch.export.Dim("length", min=2, max=100)
    x = torch.randn(20, 1, V)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: length},), strict=False).module()
    assert any("rnnfast" in str(node.target) for node in program.graph.nodes)
    for T in (4, 20):  # eager mode has a way of its own for few steps
        torch.testing.assert_close(program(x[:T]), layer(x[:T]))


@pytest.mark.filterwarnings("default::rnnfast.FallbackWarning")
def test_func_transforms(twins):
    """Against torch's layer, which has grad and jvp; it has no vmap, so examples go one by one."""
    ours, theirs = twins
    x, tangent = torch.randn(2, T, B, V).unbind()

    def loss(layer, parameters, x):
        return torch.func.functional_call(layer, parameters, (x,))[0].sin().sum()

    def of(layer):
        return {name: value.detach() for name, value in layer.named_parameters()}

    got = torch.func.grad(loss, 1)(ours, of(ours), x)
    torch.testing.assert_close(got, torch.func.grad(loss, 1)(theirs, of(theirs), x))
    each = torch.func.vmap(torch.func.grad(loss, 1), (None, None, 0))(ours, of(ours), x)
    for i in range(T):
        one = torch.func.grad(loss, 1)(theirs, of(theirs), x[i])
        torch.testing.assert_close({name: value[i] for name, value in each.items()}, one)
    torch.testing.assert_close(
        *(torch.func.jvp(lambda x: layer(x)[0], (x,), (tangent,)) for layer in twins)  # noqa: B023
    )


@pytest.mark.filterwarnings("default::rnnfast.FallbackWarning")
def test_forward_mode(twins):
    x, tangent = torch.randn(T, B, V), torch.randn(T, B, V)
    tangents = []
    for layer in twins:
        with torch.autograd.forward_ad.dual_level():
            y, _ = layer(torch.autograd.forward_ad.make_dual(x, tangent))
            tangents.append(torch.autograd.forward_ad.unpack_dual(y).tangent)
    torch.testing.assert_close(*tangents)


def test_double_backward_is_right(twins):
    ours, theirs = (layer.double() for layer in twins)
    x = torch.randn(T, B, V).double()
    grads = []
    for layer in (ours, theirs):
        with pytest.warns(FallbackWarning) if layer is ours else _nothing():
            first = torch.autograd.grad(
                _loss(layer, x), list(layer.parameters()), create_graph=True
            )
            penalty = sum(g.square().sum() for g in first)
            grads.append(torch.autograd.grad(penalty, list(layer.parameters())))
    torch.testing.assert_close(*grads)


@pytest.mark.filterwarnings("default::rnnfast.FallbackWarning")
def test_several_vectors_go_back_at_once(twins):
    x = torch.randn(T, B, V, requires_grad=True)
    grads = []
    for layer in twins:
        torch.manual_seed(1)
        y, h = layer(x)
        wanted = [x, *layer.parameters()]
        vectors = torch.randn(2, *y.shape), torch.randn(2, *h.shape)

        def back(*vectors, results=(y, h), wanted=wanted, **kwargs):
            return torch.autograd.grad(results, wanted, vectors, retain_graph=True, **kwargs)

        each = [torch.stack(of_one) for of_one in zip(*map(back, *vectors), strict=True)]
        torch.testing.assert_close(list(back(*vectors, is_grads_batched=True)), each)
        torch.testing.assert_close(list(torch.func.vmap(back)(*vectors)), each)
        grads.append(each)
    torch.testing.assert_close(*grads)


def test_gradients_of_each_sample(twins):
    x, grads = torch.randn(T, T, V), []
    for layer in twins:
        layer.batch_first = True
        y, _ = call_for_per_sample_grads(layer)(x)
        y.sin().sum().backward()
        grads.append([p.grad_sample for p in layer.parameters()])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing(twins, use_reentrant):
    ours, _ = twins
    x = torch.randn(T, B, V, requires_grad=True)
    y, h = torch.utils.checkpoint.checkpoint(ours, x, use_reentrant=use_reentrant)
    got = y.sin().sum() + h.sum()
    got.backward()
    want = _gradients(_loss(ours, x), ours)
    torch.testing.assert_close(tuple(p.grad for p in ours.parameters()), want)


def test_autocast_is_torchs(twins):
    x = torch.randn(T, B, V)
    results = []
    for layer in twins:
        with torch.autocast("cpu", torch.bfloat16):
            y, h = layer(x)
        results.append((y, h, *_gradients(y.float().sum(), layer)))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_second_backward_raises_as_in_torch(twins):
    for layer in twins:
        loss = _loss(layer, torch.randn(T, B, V))
        loss.backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            loss.backward()


def test_no_grad_keeps_nothing_and_training_keeps_the_states(twins):
    ours, _ = twins
    kept = []
    x = torch.randn(T, B, V)

    def note(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        with torch.no_grad():
            ours(x)
        assert not kept
        ours(x)
    big = {t.data_ptr(): t.numel() for t in kept if t.dim() == 3 and t.numel() >= T * B * H}
    assert len(big) <= ours.num_layers  # hs alone, which the next layer's projection reads as well


def test_a_copied_module_under_functional_call_uses_the_given_weights():
    layer = nn.RNN(V, H)
    x = torch.randn(T, B, V)
    other = copy.deepcopy(layer)
    torch.nn.init.normal_(other.weight_hh_l0)
    got = torch.func.functional_call(layer, dict(other.named_parameters()), (x,))
    torch.testing.assert_close(got, other(x))


class _nothing:  # noqa: N801 -- stands where a context manager's name does
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None
