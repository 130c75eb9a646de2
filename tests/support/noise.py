"""The noise of `csrc/cpu/noise.h` in plain torch and float64: what its numbers must be."""

import math

import torch
from torch import Tensor

ROTATIONS = [(10, 26), (11, 21), (13, 27), (23, 5), (6, 20), (17, 11), (25, 10), (18, 20)]
WORD = 2**32


def threefry(key: list[int], counter: list[Tensor]) -> list[Tensor]:
    """Threefry 4x32 of 13 rounds: four random words for each counter, as int64."""
    keys = [*key, 0x1BD11BDA ^ key[0] ^ key[1] ^ key[2] ^ key[3]]
    x = [(word + key) % WORD for word, key in zip(counter, keys, strict=False)]
    for r in range(13):
        second = 1 if r % 2 == 0 else 3
        for a, b, bits in zip((0, 2), (second, 4 - second), ROTATIONS[r % 8], strict=True):
            x[a] = (x[a] + x[b]) % WORD
            x[b] = ((x[b] << bits) % WORD | x[b] >> (32 - bits)) ^ x[a]
        if r % 4 == 3:
            turn = r // 4 + 1
            added = [keys[(turn + i) % 5] + (turn if i == 3 else 0) for i in range(4)]
            x = [(word + each) % WORD for word, each in zip(x, added, strict=True)]
    return x


def normals(seed: int, rows: int, H: int, second: bool = False) -> Tensor:
    """The numbers of the first rows of arrays [T, B, H], one step behind the other: [rows, H]."""
    blocks = -(-H // 64)
    row = torch.arange(rows)[:, None].expand(-1, 16 * blocks)
    lane, none = torch.arange(16 * blocks).expand_as(row), torch.zeros_like(row)
    key = [seed % WORD, seed // WORD, int(second), 0]
    words = threefry(key, [lane, row % WORD, row // WORD, none])
    pairs = [each for pair in (0, 2) for each in _box_muller(*words[pair : pair + 2])]
    parts = torch.stack([each.view(rows, blocks, 16) for each in pairs], 2)
    return parts.flatten(1)[:, :H]


def _box_muller(of_radius: Tensor, of_angle: Tensor) -> tuple[Tensor, Tensor]:
    u = ((of_radius >> 1).double() + 0.5) / 2**31
    quarter = of_angle % 2**30
    quarter = torch.where(quarter >= 2**29, quarter - 2**30, quarter)  # from -1/8 to 1/8 of a turn
    turns = (of_angle >> 30) / 4 + quarter / WORD
    radius, angle = (-2 * u.log()).sqrt(), 2 * math.pi * turns
    return radius * angle.cos(), radius * angle.sin()
