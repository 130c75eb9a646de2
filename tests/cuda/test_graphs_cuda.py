"""The graphed train step over the CUDA kernels: graphs and kernels are both stood in for."""

import pytest
import torch

import rnnfast
from rnnfast import functional, train_epoch_ch8
from rnnfast.backends.cuda import bridge
from rnnfast.training import levels
from support import models
from support.emulator import build
from support.fake_cuda import FakeCuda, pretended

pytestmark = [
    pytest.mark.skipif(bool(build.why_not()), reason=build.why_not()),
    pytest.mark.usefixtures("emulated"),
]

T, B, V, H = 6, 4, 7, 12
LOSS = torch.nn.CrossEntropyLoss()


@pytest.fixture
def devices(monkeypatch):
    """As on a GPU, with the cuda backend, whose driver knows when a capture is under way."""
    from support.emulator import cuda as emulated

    def capture(self, work):
        emulated.driver().emulated_driver_capturing(1)
        try:
            return record(self, work)
        finally:
            emulated.driver().emulated_driver_capturing(0)

    record = FakeCuda.capture
    monkeypatch.setattr(FakeCuda, "capture", capture)
    with pretended() as made, rnnfast.use_backend("cuda"):
        yield made


def _batches(n):
    return [(torch.randint(V, (B, T)), torch.randint(V, (B, T))) for _ in range(n)]


def _plainly(net, batches, optimizer):
    with pytest.MonkeyPatch.context() as patch, rnnfast.use_backend("native"):
        patch.setenv("RNNFAST_GRAPH", "0")
        return train_epoch_ch8(net, batches, LOSS, optimizer, "cpu", False)[0]


def test_kernels_are_captured_and_replayed_with_the_same_numbers(devices):
    net, _ = models.pair(V, H)
    twin = models.ours(models.copies(net.params))
    mine, its = (torch.optim.SGD(each.params, 0.1) for each in (net, twin))
    for _ in range(2):
        batches = _batches(12)
        got = train_epoch_ch8(net, batches, LOSS, mine, "cpu", False)[0]
        assert "level 'graph'" in str(rnnfast.explain(net))
        assert got == pytest.approx(_plainly(twin, batches, its), rel=1e-5)
    for p, q in zip(net.params, twin.params, strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(p.grad, q.grad, atol=1e-5, rtol=1e-4)
    assert devices[0].log.count("capture") == 1
    assert devices[0].log.count("replay") == 22


@pytest.mark.parametrize("graph", ["0", "1"])
@pytest.mark.parametrize("momentum", [0, 0.5])
def test_ignored_targets_are_left_out_at_every_level(devices, monkeypatch, graph, momentum):
    monkeypatch.setattr(levels, "_tells_at_once", lambda tensor: False)  # as a GPU's tensors
    monkeypatch.setenv("RNNFAST_GRAPH", graph)
    net, _ = models.pair(V, H)
    twin = models.ours(models.copies(net.params))
    mine, its = (torch.optim.SGD(each.params, 0.1, momentum=momentum) for each in (net, twin))
    batches = _batches(8)
    for batch in (0, 4, 5):
        batches[batch][1][1, 2:4] = -100
    got = train_epoch_ch8(net, batches, LOSS, mine, "cpu", False)[0]
    assert got == pytest.approx(_plainly(twin, batches, its), rel=1e-5)
    for p, q in zip(net.params, twin.params, strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)
    bridge.check(0)


@pytest.mark.parametrize("graph", ["0", "1"])
def test_what_a_kernel_complains_about_ends_the_epoch(devices, monkeypatch, graph):
    monkeypatch.setenv("RNNFAST_GRAPH", graph)
    net, _ = models.pair(V, H)

    def batches():
        yield from _batches(4)
        W_xh, W_hh, b_h, *_ = (p.detach() for p in net.params)
        functional.rnn(torch.full((1, 1), V), torch.zeros(1, H), W_xh, W_hh, b_h)

    with pytest.raises(RuntimeError, match="id"):
        train_epoch_ch8(net, batches(), LOSS, torch.optim.SGD(net.params, 0.1), "cpu", False)
    bridge.check(0)
