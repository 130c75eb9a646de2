"""The train step as one graph: its order of work, and that nobody can see the difference.

There is no GPU here: `fake_cuda` queues, captures and replays the work on CPU tensors.
"""

import gc
import weakref

import pytest
import torch

import rnnfast
from rnnfast import dispatch, optim, train_epoch_ch8
from rnnfast.training import choose, graphs
from support import models
from support.fake_cuda import pretended

T, B, V, H = 6, 4, 7, 12
NAMES = ["W_xh", "W_hh", "b_h", "W_hq", "b_q"]
LOSS = torch.nn.CrossEntropyLoss()
UPDATERS = {
    "optimizer": lambda net: torch.optim.SGD(net.params, 0.5),
    "book": lambda net: optim.SGD(net.params, 0.5),
}


@pytest.fixture
def cuda():
    """CPU tensors as if they were on a GPU; the fake devices, one per net that was graphed."""
    with pretended() as devices:
        yield devices


def _batches(n=6, b=B, t=T):
    return [(torch.randint(V, (b, t)), torch.randint(V, (b, t))) for _ in range(n)]


def _twins(dtype=torch.float64):
    net, _ = models.pair(V, H, dtype)
    return net, models.ours(models.copies(net.params))


def _plainly(net, batches, updater, *, clip=1.0, random=False):
    """The same epoch without graphs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "exist_for", lambda tensor: False)
        return train_epoch_ch8(net, batches, LOSS, updater, "cpu", random, clip=clip)[0]


def _graphed(net, batches, updater, *, clip=1.0, random=False):
    return train_epoch_ch8(net, batches, LOSS, updater, "cpu", random, clip=clip)[0]


def _check_equal(net, twin):
    for name, p, q in zip(NAMES, net.params, twin.params, strict=True):
        torch.testing.assert_close(p, q, msg=lambda m, name=name: f"{name}: {m}")
        torch.testing.assert_close(p.grad, q.grad, msg=lambda m, name=name: f"{name}.grad: {m}")


@pytest.mark.parametrize("clip", [None, 0.05, 100.0])
@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("updater", list(UPDATERS))
def test_the_curve_and_what_is_left_are_those_of_the_plain_loop(cuda, updater, clip, random):
    net, twin = _twins()
    mine, its = UPDATERS[updater](net), UPDATERS[updater](twin)
    for _ in range(3):
        batches = _batches(25)  # more than the staging buffers
        got = _graphed(net, batches, mine, clip=clip, random=random)
        assert got == pytest.approx(_plainly(twin, batches, its, clip=clip, random=random), 1e-9)
        _check_equal(net, twin)
    assert cuda[0].log.count("replay") == 73
    assert cuda[0].log.count("capture") == 1


def test_the_order_of_the_work(cuda):
    net, _ = _twins()
    _graphed(net, _batches(4), UPDATERS["optimizer"](net))
    batch, state, total = "copy (2, 6, 4)", "copy (4, 12)", "copy ()"
    assert cuda[0].log == [
        total,  # to zero; the first batch is the ungraphed step's
        *(batch, state, "fork", "join"),
        *(batch, "capture", "replay"),
        *(batch, "replay"),
        "read",
    ]


def test_the_state_is_copied_only_where_it_is_not_the_graphs_own(cuda):
    net, _ = _twins()
    _graphed(net, _batches(9), UPDATERS["optimizer"](net), random=True)
    assert cuda[0].log.count("copy (4, 12)") == 8


def test_the_host_waits_only_for_a_staging_buffer(cuda):
    net, _ = _twins()
    _graphed(net, _batches(9), UPDATERS["optimizer"](net))
    assert "wait" not in cuda[0].log
    _graphed(net, _batches(30), UPDATERS["optimizer"](net))
    assert cuda[0].log.count("wait") == 30  # all eight hold the first epoch's last batches


def test_the_level_is_named_and_explained(cuda):
    net, _ = _twins()
    step, reason = choose.level_for(net, LOSS, torch.optim.SGD(net.params, 0.5), 1.0)
    assert (step.name, reason) == ("graph", "")
    assert "level 'graph': the whole step in one launch" in str(rnnfast.explain(net))
    step, reason = choose.level_for(net, LOSS, torch.optim.SGD(net.params, 0.5, momentum=0.9), 1.0)
    assert step.name == "loss"
    with rnnfast.use_backend("reference"):
        assert choose.level_for(net, LOSS, optim.SGD(net.params, 0.5), 1.0)[0].name == "general"


def test_the_switch(cuda, monkeypatch):
    net, _ = _twins()
    monkeypatch.setenv("RNNFAST_GRAPH", "0")
    step, reason = choose.level_for(net, LOSS, optim.SGD(net.params, 0.5), 1.0)
    assert (step.name, reason) == ("step", "RNNFAST_GRAPH is 0")


def test_a_last_smaller_batch_and_longer_ones(cuda):
    net, twin = _twins()
    mine, its = UPDATERS["book"](net), UPDATERS["book"](twin)
    for _ in range(4):
        batches = [*_batches(5), *_batches(2, t=9), *_batches(2), *_batches(1, b=3)]
        got = _graphed(net, batches, mine, random=True)
        assert got == pytest.approx(_plainly(twin, batches, its, random=True), 1e-9)
        _check_equal(net, twin)
    assert cuda[0].log.count("capture") == 3


def test_the_state_goes_from_one_graph_to_another(cuda):
    net, twin = _twins()
    mine, its = UPDATERS["book"](net), UPDATERS["book"](twin)
    for _ in range(3):
        batches = [*_batches(4), *_batches(3, t=9), *_batches(2), *_batches(1, t=2)]
        assert _graphed(net, batches, mine) == pytest.approx(_plainly(twin, batches, its), 1e-9)
        _check_equal(net, twin)


def test_a_batch_size_that_the_state_does_not_fit_is_the_same_error(cuda):
    net, _ = _twins()
    _graphed(net, _batches(4), UPDATERS["book"](net))
    with pytest.raises(RuntimeError, match=r"has shape \(4, 12\), read as \[B, H\]: a batch of 4"):
        _graphed(net, [*_batches(4), *_batches(1, b=3)], UPDATERS["book"](net))


@pytest.mark.parametrize("every", [1, 2, 6])
def test_a_changed_learning_rate_counts_from_the_next_batch(cuda, every):
    net, twin = _twins()
    mine, its = UPDATERS["optimizer"](net), UPDATERS["optimizer"](twin)

    def changing(batches, optimizer):
        for i, batch in enumerate(batches):
            optimizer.param_groups[0]["lr"] = 0.5 / (1 + i // every)
            yield batch

    for _ in range(3):
        batches = _batches(24)
        got = _graphed(net, changing(batches, mine), mine)
        assert got == pytest.approx(_plainly(twin, changing(batches, its), its), 1e-9)
        _check_equal(net, twin)
    assert len(graphs._kept[net].graphs) <= graphs.MAX_KEYS


def test_a_parameter_with_other_memory_is_another_graph(cuda):
    net, twin = _twins()
    mine, its = UPDATERS["optimizer"](net), UPDATERS["optimizer"](twin)
    for epoch in range(4):
        if epoch % 2:
            for each in (net, twin):
                each.params[1].data = each.params[1].data.clone()
        batches = _batches()
        assert _graphed(net, batches, mine) == pytest.approx(_plainly(twin, batches, its), 1e-9)
        _check_equal(net, twin)
    assert cuda[0].log.count("capture") == 2 + 1


class _EndedError(RuntimeError):
    pass


def test_a_capture_that_fails_is_told_and_changes_no_number(cuda):
    net, twin = _twins()
    mine, its = UPDATERS["optimizer"](net), UPDATERS["optimizer"](twin)
    batches = _batches(8)
    choose.level_for(net, LOSS, mine, 1.0)
    ended = _EndedError("the capture was invalidated")
    ended.__context__ = RuntimeError("cudaMalloc is not permitted\nand more")
    cuda[0].failing = ended
    with pytest.warns(rnnfast.FallbackWarning, match="without a CUDA graph: .*not permitted$"):
        got = _graphed(net, batches, mine)
    assert got == pytest.approx(_plainly(twin, batches, its), 1e-9)
    _check_equal(net, twin)
    _, reason = choose.level_for(net, LOSS, mine, 1.0)
    assert reason == "the step could not be captured: cudaMalloc is not permitted"
    assert f"level 'step': loss, gradients, clip and SGD in one call, because {reason}" in str(
        rnnfast.explain(net)
    )
    got = _graphed(net, batches, mine)
    assert got == pytest.approx(_plainly(twin, batches, its), 1e-9)
    assert cuda[0].log.count("capture") == 1


def test_an_error_of_the_step_itself_is_not_taken_for_a_failed_capture(cuda, monkeypatch):
    net, _ = _twins()
    optimizer = UPDATERS["optimizer"](net)
    _graphed(net, _batches(1), optimizer)

    def broken(*args):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(graphs.functional, "train_step_", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        _graphed(net, _batches(2), optimizer)
    assert not graphs._kept[net].failure


def test_two_nets_at_once(cuda):
    nets, twins = zip(*(_twins() for _ in range(2)), strict=True)
    mine, its = ([UPDATERS["book"](net) for net in each] for each in (nets, twins))
    data = [_batches(12) for _ in nets]

    def interleaved():
        for i, batch in enumerate(data[0]):
            yield batch
            if i % 4 == 3:
                _graphed(nets[1], data[1][i - 3 : i + 1], mine[1])

    got = _graphed(nets[0], interleaved(), mine[0])
    assert got == pytest.approx(_plainly(twins[0], data[0], its[0]), 1e-9)
    for i in range(0, 12, 4):
        _plainly(twins[1], data[1][i : i + 4], its[1])
    for net, twin in zip(nets, twins, strict=True):
        _check_equal(net, twin)
    assert [device.log.count("capture") for device in cuda] == [1, 1]


def test_gradients_that_somebody_kept_stay(cuda):
    net, _ = _twins()
    optimizer = UPDATERS["optimizer"](net)
    _graphed(net, _batches(), optimizer)
    kept = [p.grad for p in net.params]
    before = [g.clone() for g in kept]
    _graphed(net, _batches(), optimizer)
    for g, want, p in zip(kept, before, net.params, strict=True):
        assert torch.equal(g, want)
        assert p.grad is not g


def test_an_error_in_the_middle_leaves_the_last_steps_gradients(cuda):
    net, twin = _twins()
    batches = _batches(5)

    def broken():
        yield from batches
        raise OSError("the disk is gone")

    for each, way in ((net, _graphed), (twin, _plainly)):
        with pytest.raises(OSError, match="the disk is gone"):
            way(each, broken(), UPDATERS["optimizer"](each))
    _check_equal(net, twin)


def test_ignored_and_wrong_targets_are_the_ungraphed_steps(cuda):
    net, twin = _twins()
    mine, its = UPDATERS["optimizer"](net), UPDATERS["optimizer"](twin)
    for batch in (3, 7):  # before and behind a replay; in the last batch, too
        batches = _batches(8)
        batches[batch][1][0, :3] = -100
        assert _graphed(net, batches, mine) == pytest.approx(_plainly(twin, batches, its), 1e-9)
        _check_equal(net, twin)
    for wrong in (V, -1):
        batches = _batches(8)
        batches[6][0][1, 1] = wrong
        with pytest.raises((RuntimeError, IndexError)):
            _graphed(net, batches, mine)


def test_batches_that_are_on_the_device_already(cuda):
    net, twin = _twins()
    mine, its = UPDATERS["optimizer"](net), UPDATERS["optimizer"](twin)
    batches = _batches(8)
    batches[6][1][0, 0] = -100
    choose.level_for(net, LOSS, mine, 1.0)
    cuda[0].resident = {id(X) for X, _ in batches}
    assert _graphed(net, batches, mine) == pytest.approx(_plainly(twin, batches, its), 1e-9)
    _check_equal(net, twin)
    assert "wait" not in cuda[0].log


@pytest.fixture
def _only_own_garbage():
    """What earlier tests have left is not counted: it may go at any time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_only_own_garbage")
def test_nothing_grows_over_many_steps_and_nothing_outlives_the_net(cuda):
    net, _ = _twins(torch.float32)
    optimizer, few = torch.optim.SGD(net.params, 0.01), _batches(4)

    def tensors_after(count, net, optimizer):
        _graphed(net, (few[i % 4] for i in range(count)), optimizer)
        cuda[0].log.clear()
        gc.collect()
        return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())

    tensors_after(10, net, optimizer)
    before = tensors_after(10, net, optimizer)
    assert tensors_after(2000, net, optimizer) == before
    gone = [weakref.ref(net), weakref.ref(graphs._kept[net])]
    del net, optimizer
    gc.collect()
    assert [each() for each in gone] == [None, None]


def test_what_a_kernel_complains_about_is_raised_at_the_end_of_the_epoch(cuda, monkeypatch):
    net, _ = _twins()

    def complain(device):
        raise RuntimeError(f"a wait expired on {device}")

    monkeypatch.setattr(
        dispatch.backend_for(net.params[0]), "check_errors", complain, raising=False
    )
    with pytest.raises(RuntimeError, match="a wait expired on cpu"):
        _graphed(net, _batches(5), UPDATERS["optimizer"](net))
    assert all(p.grad.isfinite().all() for p in net.params)


def test_parameters_changed_by_a_replay_are_seen_by_version_counters(cuda):
    net, _ = _twins()
    optimizer = UPDATERS["optimizer"](net)
    _graphed(net, _batches(5), optimizer)

    def watched():
        yield from batches
        replayed.append(net.params[1]._version)

    batches, replayed = _batches(3), []
    before = net.params[1]._version
    _graphed(net, watched(), optimizer)
    assert replayed[0] == before + 3


def test_another_threshold_is_another_graph(cuda):
    net, twin = _twins()
    mine, its = UPDATERS["optimizer"](net), UPDATERS["optimizer"](twin)
    for clip in (1.0, 0.05, None):
        batches = _batches(4)
        _graphed(net, batches, mine, clip=clip)
        _plainly(twin, batches, its, clip=clip)
        _check_equal(net, twin)
    assert cuda[0].log.count("capture") == 3


def test_another_precision_is_another_graph(cuda):
    net, _ = _twins()
    optimizer = UPDATERS["optimizer"](net)
    _graphed(net, _batches(4), optimizer)
    try:
        torch.set_float32_matmul_precision("high")
        _graphed(net, _batches(4), optimizer)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert cuda[0].log.count("capture") == 2


def test_the_perplexity_is_the_mean_over_graphed_and_other_batches(cuda):
    net, _ = models.pair(V, H)
    for p in net.params:
        p.data.zero_()
    assert _graphed(net, _batches(5), torch.optim.SGD(net.params, 1e-9)) == pytest.approx(V)
