"""Clipping gradients that are sharded over processes, as FSDP2 leaves them (DTensor)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def is_sharded(grads: list[Tensor]) -> bool:
    """Whether there is a DTensor among them."""
    module = sys.modules.get("torch.distributed.tensor")  # whoever has a DTensor imported it
    return module is not None and any(isinstance(g, module.DTensor) for g in grads)


def clip_grads_(grads: list[Tensor], max_norm: float, clip_here: Callable[..., Tensor]) -> Tensor:
    """`optim.clip_grad_norm_` of gradients of which each process has a part.

    The squares of the parts are summed by one call for each mesh and placement, and over the
    processes of the mesh dimensions that they are sharded over. clip_here is `optim.clip_grads_`.
    Returns the common norm, the same in all processes: as torch does, a replicated DTensor where
    all gradients are DTensors of one mesh, and a plain tensor where they are mixed, which torch
    refuses. Raises RuntimeError for a gradient that is a partial sum.
    """
    groups: dict[Any, list[Tensor]] = {}
    for index, grad in enumerate(grads):
        key, part = _part(grad, index)
        groups.setdefault(key, []).append(part)
    square = torch.zeros((), dtype=torch.float64, device=grads[0].device)
    for key, parts in groups.items():
        norm_here = clip_here(parts, float("inf"), d2l=True)  # its first pass alone
        square += _over_all(norm_here.double().square(), *key)
    norm = square.sqrt()
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for parts in groups.values():
        torch._foreach_mul_(parts, scale.to(parts[0].dtype))
    return _replicated(norm.to(grads[0].dtype), {mesh for mesh, _ in groups})


def _part(grad: Any, index: int) -> tuple[tuple[Any, Any], Tensor]:
    """Mesh and placements of a gradient (None, () for a plain one), and what of it lies here."""
    from torch.distributed.tensor import DTensor

    if not isinstance(grad, DTensor):
        return (None, ()), grad
    if any(placement.is_partial() for placement in grad.placements):
        raise RuntimeError(
            f"the gradient of parameter {index} is placed as {grad.placements}: it is a partial "
            "sum; reduce it before it is clipped, for instance by redistribute()"
        )
    return (grad.device_mesh, grad.placements), grad.to_local()


def _replicated(norm: Tensor, meshes: set[Any]) -> Tensor:
    """The norm as a DTensor, if all gradients are of one mesh (that of a plain one is None)."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh = meshes.pop()
    if meshes or mesh is None:
        return norm
    return DTensor.from_local(norm, mesh, [Replicate()] * mesh.ndim)


def _over_all(square: Tensor, mesh: Any, placements: Any) -> Tensor:
    """The sum of squares over all processes that have other parts."""
    for dimension, placement in enumerate(placements):
        if placement.is_shard():
            torch.distributed.all_reduce(square, group=mesh.get_group(dimension))
    return square
