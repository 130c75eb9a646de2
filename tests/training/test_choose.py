"""Who gets which level of a training step, and why not a faster one."""

import pytest
import torch
from torch.nn.modules import module
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import rnnfast
from rnnfast import optim, train_epoch_ch8
from rnnfast.training import choose
from support import models

T, B, V, H = 6, 4, 7, 12


def _choose(net, loss=None, updater=None, clip=1.0):
    step, reason = choose.level_for(
        net,
        loss or torch.nn.CrossEntropyLoss(),
        updater or torch.optim.SGD(net.params, 0.5),
        clip,
    )
    return step.name, reason


def test_plain_training_gets_the_whole_step():
    net, _ = models.pair(V, H)
    assert _choose(net) == ("step", "")
    assert "level 'step': loss, gradients, clip and SGD in one call" in str(rnnfast.explain(net))
    assert _choose(net, updater=optim.SGD(net.params, 0.5)) == ("step", "")
    assert _choose(net, loss=torch.nn.CrossEntropyLoss(reduction="none")) == ("step", "")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"momentum": 0.9}, "momentum"),
        ({"weight_decay": 0.1}, "weight decay"),
        ({"maximize": True}, "maximize"),
        ({"lr": torch.tensor(0.5)}, "learning rate is a tensor"),
    ],
)
def test_other_optimizers_get_the_loss_in_one_call(options, reason):
    net, _ = models.pair(V, H)
    level, why = _choose(net, updater=torch.optim.SGD(net.params, **{"lr": 0.5, **options}))
    assert level == "loss"
    assert reason in why


def test_opaque_updaters_schedulers_and_hooks_get_the_loss_in_one_call():
    net, _ = models.pair(V, H)
    assert (
        _choose(net, updater=lambda batch_size: optim.sgd(net.params, 0.5, batch_size))[0] == "loss"
    )
    assert "in one call, because the updater is function" in str(rnnfast.explain(net))
    assert _choose(net, updater=torch.optim.Adam(net.params))[0] == "loss"
    assert _choose(net, updater=torch.optim.SGD(net.params[:4], 0.5))[0] == "loss"
    scheduled = torch.optim.SGD(net.params, 0.5)
    torch.optim.lr_scheduler.StepLR(scheduled, 1)
    assert _choose(net, updater=scheduled)[0] == "loss"
    others = {"params": [torch.zeros(1, requires_grad=True)]}
    groups = torch.optim.SGD([{"params": net.params}, others], 0.5)
    assert _choose(net, updater=groups)[0] == "loss"
    hooked = torch.optim.SGD(net.params, 0.5)
    hooked.register_step_post_hook(lambda *args: None)
    assert _choose(net, updater=hooked)[0] == "loss"
    patched = torch.optim.SGD(net.params, 0.5)
    patched.zero_grad = lambda: None
    assert _choose(net, updater=patched)[0] == "loss"
    for register in (register_optimizer_step_pre_hook, register_optimizer_step_post_hook):
        handle = register(lambda *args: None)
        assert _choose(net)[0] == "loss"
        handle.remove()
    assert _choose(net)[0] == "step"
    net.params[0].grad = torch.ones(V, H)
    assert _choose(net, updater=optim.SGD(net.params, 0.5))[0] == "loss"


def test_gradients_known_to_be_zero_are_not_read_again(monkeypatch):
    net, _ = models.pair(V, H)
    updater, loss = optim.SGD(net.params, 0.5), torch.nn.CrossEntropyLoss()
    batches = [(torch.randint(V, (B, T)), torch.randint(V, (B, T))) for _ in range(4)]
    train_epoch_ch8(net, batches, loss, updater, "cpu", False)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "any", lambda *_: pytest.fail("the device was asked"))
        assert _choose(net, updater=updater)[0] == "step"
    net.params[3].grad.add_(1)
    assert _choose(net, updater=updater)[0] == "loss"
    net.params[3].grad.zero_()
    assert _choose(net, updater=updater)[0] == "step"
    net.params[3].grad = torch.ones_like(net.params[3])
    assert _choose(net, updater=updater)[0] == "loss"


def _frozen(net):
    net.params[0].requires_grad_(False)


def _hooked(net):
    net.params[0].register_hook(lambda grad: grad)


def _hooked_after(net):
    net.params[0].register_post_accumulate_grad_hook(lambda param: None)


def _foreign(net):
    net.forward_fn = lambda *args: None


def _strided(net):
    net.params[1] = torch.randn(H, H).T.requires_grad_(True)


def _biased(net):
    net.params[2] = torch.zeros(1, H, requires_grad=True)


def _computed(net):
    net.params[0] = net.params[0] * 1.0


def _tied(net):
    vars(net).update(vars(models.pair(H, H)[0]))
    net.params[1] = net.params[0]


def _mixed(net):
    net.params[4] = torch.zeros(V, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    "change",
    [_frozen, _hooked, _hooked_after, _foreign, _strided, _biased, _computed, _tied, _mixed],
)
def test_other_nets_go_the_general_way(change):
    net, _ = models.pair(V, H)
    change(net)
    level, reason = _choose(net, updater=lambda batch_size: None)
    assert level == "general"
    assert reason


@pytest.mark.parametrize(
    "loss",
    [
        torch.nn.CrossEntropyLoss(label_smoothing=0.1),
        torch.nn.CrossEntropyLoss(weight=torch.ones(V)),
        torch.nn.CrossEntropyLoss(ignore_index=0),
        torch.nn.CrossEntropyLoss(reduction="sum"),
        torch.nn.functional.cross_entropy,
    ],
)
def test_other_losses_go_the_general_way(loss):
    net, _ = models.pair(V, H)
    level, reason = _choose(net, loss=loss)
    assert level == "general"
    assert "loss is" in reason


def _with_another_forward(loss):
    loss.forward = torch.nn.functional.cross_entropy


@pytest.mark.parametrize(
    "change",
    [
        lambda loss: loss.register_forward_pre_hook(lambda *args: None),
        lambda loss: loss.register_forward_hook(lambda *args: None),
        lambda loss: loss.register_full_backward_pre_hook(lambda *args: None),
        lambda loss: loss.register_full_backward_hook(lambda *args: None),
        lambda loss: module.register_module_forward_hook(lambda *args: None),
        _with_another_forward,
    ],
)
def test_losses_with_hooks_go_the_general_way(change):
    net, _ = models.pair(V, H)
    loss = torch.nn.CrossEntropyLoss()
    handle = change(loss)
    level, why = _choose(net, loss)
    if handle:
        handle.remove()
    assert (level, why) == ("general", "the loss has hooks, or a forward of its own")


def test_the_reference_and_autocast_go_the_general_way():
    net, _ = models.pair(V, H)
    with rnnfast.use_backend("reference"):
        assert _choose(net)[0] == "general"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert _choose(net)[0] == "general"
