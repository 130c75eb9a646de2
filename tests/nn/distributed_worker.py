"""What two processes under torchrun do: DDP and FSDP2 against one process on the joined batch."""

import copy
import sys

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, init_device_mesh

from rnnfast import clip_grad_norm_, nn

V, H, B, T = 3, 8, 4, 5


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(V, H, num_layers=2, bidirectional=True)
        self.out = torch.nn.Linear(2 * H, 1)

    def forward(self, x):
        return self.out(self.rnn(x)[0])


def batch():
    """The joined batch [T, 2 B, V], and this process's half of it."""
    x = torch.randn(T, 2 * B, V, generator=torch.Generator().manual_seed(1))
    return x, x[:, dist.get_rank() * B :][:, :B]


def expected(model):
    """The gradients of one process on the joined batch."""
    alone = copy.deepcopy(model)
    alone(batch()[0]).square().mean().backward()
    return alone


def check_ddp(model):
    alone = expected(model)
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    parallel(batch()[1]).square().mean().backward()
    for got, want in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(got.grad, want.grad)


def check_fsdp(model):
    alone = expected(model)
    for module in (model.rnn, model.out, model):
        fully_shard(module)
    model(batch()[1]).square().mean().backward()
    norm = clip_grad_norm_(model.parameters(), 0.01)
    want_norm = torch.nn.utils.clip_grad_norm_(alone.parameters(), 0.01)
    assert isinstance(norm, DTensor)
    assert norm.placements == (Replicate(),)
    torch.testing.assert_close(norm.full_tensor(), want_norm)
    for got, want in zip(model.parameters(), alone.parameters(), strict=True):
        assert isinstance(got.grad, DTensor)
        torch.testing.assert_close(got.grad.full_tensor(), want.grad)


def with_grad(grad):
    parameter = torch.nn.Parameter(torch.zeros_like(grad))
    parameter.grad = grad
    return parameter


def check_placements(_):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    full = torch.arange(6.0) - 2
    half = full.clone()[3 * dist.get_rank() :][:3]
    placed = [DTensor.from_local(half, mesh, [Shard(0)])]
    placed += [DTensor.from_local(full.clone(), mesh, [Replicate()]), full.clone()]
    norm = clip_grad_norm_([with_grad(grad) for grad in placed], 1.0)
    torch.testing.assert_close(norm, (3 * full.square().sum()).sqrt())  # no DTensor: one was plain
    torch.testing.assert_close(placed[0].full_tensor(), full / norm, atol=1e-5, rtol=1e-5)
    partial = with_grad(DTensor.from_local(full, mesh, [Partial()]))
    with pytest.raises(RuntimeError, match="partial sum"):
        clip_grad_norm_([partial], 1.0)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    globals()[f"check_{sys.argv[1]}"](Model())
    dist.destroy_process_group()
