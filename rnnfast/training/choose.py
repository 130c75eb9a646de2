"""Which level trains an epoch, and why not a faster one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rnnfast import dispatch
from rnnfast.backends.reference import reference
from rnnfast.book import models
from rnnfast.optim import SGD
from rnnfast.training.levels import GeneralLevel, LossLevel, StepLevel, Updater

if TYPE_CHECKING:
    from rnnfast.training import graphs


def level_for(
    net: Any, loss: Callable[..., Tensor], updater: Updater, clip: float | None
) -> tuple[GeneralLevel | graphs.GraphLevel, str]:
    """The fastest level for these, and why it is not a faster one (empty for the device's best)."""
    level: type[GeneralLevel] = GeneralLevel
    chosen: graphs.GraphLevel | None = None
    reason = _why_not_ours(net) or _why_not_mean_cross_entropy(loss)
    if not reason:
        level, reason = LossLevel, _why_not_plain_sgd(updater, net.params)
        if not reason:
            from rnnfast.training import graphs  # 4 ms, only where they are needed

            level = StepLevel
            if graphs.exist_for(net.params[0]) and not (reason := graphs.why_not(net)):
                chosen = graphs.GraphLevel(StepLevel(net, loss, updater, clip))
    step = chosen or level(net, loss, updater, clip)
    note_choice(step.name, step.summary, reason)
    return step, reason


_last_choice = ""


def note_choice(name: str, summary: str, reason: str) -> None:
    """Remember for `explain` how an epoch is trained, and why not faster."""
    global _last_choice
    because = f", because {reason}" if reason else ""
    _last_choice = f"level {name!r}: {summary}{because}"


def last_choice() -> str:
    """How the last epoch was trained; "" before the first."""
    return _last_choice


def _why_not_ours(net: Any) -> str:
    if type(net) is not models.RNNModelScratch or net.forward_fn is not models.rnn:
        return "the net is not RNNModelScratch around rnnfast.rnn"
    if len({id(p) for p in net.params}) != 5:
        return "the net has not five parameters of its own"
    if not all(p.is_leaf and p.requires_grad and p.is_contiguous() for p in net.params):
        return "a parameter is frozen, computed from others, or strided"
    if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in net.params):
        return "a parameter has gradient hooks"
    V, H = net.vocab_size, net.num_hiddens
    if [tuple(p.shape) for p in net.params] != [(V, H), (H, H), (H,), (H, V), (V,)]:
        return "the parameters have not the shapes that get_params gives them"
    if len({(p.dtype, p.device) for p in net.params}) != 1:
        return "the parameters differ in dtype or device"
    if dispatch.backend_for(net.params[0]) is reference:
        return "the reference backend runs, which has no fused kernels"
    if torch.is_autocast_enabled(net.params[0].device.type):
        return "autocast is on"
    return ""


def _why_not_mean_cross_entropy(loss: Any) -> str:
    if type(loss) is not nn.CrossEntropyLoss:
        return f"the loss is {type(loss).__name__}, not torch's CrossEntropyLoss"
    plain = loss.weight is None and loss.label_smoothing == 0 and loss.ignore_index == -100
    if not plain or loss.reduction == "sum":
        return "the loss is not the plain mean over all targets"
    forward, backward = loss._forward_pre_hooks, loss._backward_pre_hooks
    if forward or loss._forward_hooks or backward or loss._backward_hooks:
        return "the loss has hooks"
    return ""


def _why_not_plain_sgd(updater: Any, params: list[Tensor]) -> str:
    if isinstance(updater, SGD):
        same = [id(p) for p in updater.params] == [id(p) for p in params]
        return "" if same and updater.finds_zeros() else "gradients of before would be added to"
    if type(updater) is not torch.optim.SGD:
        return f"the updater is {type(updater).__name__}, not a plain torch.optim.SGD"
    if len(updater.param_groups) != 1 or "step" in vars(updater) or _has_hooks(updater):
        return "the optimizer has several parameter groups, hooks or a scheduler"
    group = updater.param_groups[0]
    if {id(p) for p in group["params"]} != {id(p) for p in params}:
        return "the optimizer does not hold just the net's parameters"
    if any(group[each] for each in ("momentum", "weight_decay", "dampening", "maximize")):
        return "the optimizer has momentum, weight decay or maximize"
    if isinstance(group["lr"], Tensor):
        return "the learning rate is a tensor"
    return ""


def _has_hooks(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)
