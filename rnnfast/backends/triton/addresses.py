"""Many tensors for one launch: their addresses and sizes as a tensor on the device."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rnnfast.backends.triton.launch import padded

CHUNK = 2048  # elements that a program takes at a time
KEPT = 128  # tables


@dataclass(frozen=True)
class Addresses:
    """rows [4, count]: address, address of the partner (or 0), elements, number of first chunk."""

    rows: Tensor
    count: int  # a power of two, those beyond the last tensor empty
    chunks: int
    host: Tensor  # what `rows` is copied from, which must outlive the copy


_kept: OrderedDict[tuple[object, ...], Addresses] = OrderedDict()
# A graph reads its tables whenever it is replayed, so these are never given back.
_captured: list[Addresses] = []


def addresses(tensors: Sequence[Tensor], partners: Sequence[Tensor] | None = None) -> Addresses:
    """The table of dense tensors, none of them empty, all of one device.

    It is a function of addresses and sizes alone, so it is kept and copied to the device only when
    these are new: a training loop whose gradients stay where they are copies nothing. The copy is
    asynchronous, and may be captured in a graph.
    """
    pointers = [t.data_ptr() for t in tensors]
    others = [p.data_ptr() for p in partners] if partners else [0] * len(tensors)
    sizes = [t.numel() for t in tensors]
    device = tensors[0].device
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    key = (device, *pointers, *others, *sizes)
    table = _kept.get(key)
    if table is None:
        table = _make(pointers, others, sizes, device)
        if not capturing:  # else the table is filled only once the graph runs
            _kept[key] = table
            if len(_kept) > KEPT:
                _kept.popitem(last=False)
    else:
        _kept.move_to_end(key)
    if capturing and not any(table is each for each in _captured):
        _captured.append(table)
    return table


def _make(
    pointers: list[int], others: list[int], sizes: list[int], device: torch.device
) -> Addresses:
    starts, chunks = [], 0
    for size in sizes:
        starts.append(chunks)
        chunks += -(-size // CHUNK)
    count = padded(len(sizes))
    empty = [0] * (count - len(sizes))
    rows = [pointers + empty, others + empty, sizes + empty, starts + [chunks] * len(empty)]
    host = torch.tensor(rows, dtype=torch.int64, pin_memory=device.type == "cuda")
    return Addresses(host.to(device, non_blocking=True), count, chunks, host)
