"""The noise that the CPU's kernels draw: its numbers, where they go, and how they are spread."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rnnfast.backends.compiled import native
from support import instruction_sets
from support.compare import assert_close_to_f64
from support.noise import WORD, normals, threefry
from support.recurrences import make, run

SEED = 0x123456789ABCDEF
# Numbers near 0 come from u near 1, where float32 has steps of 6e-8.
TOLERANCE = 1e-5
# Rows split, columns split, one row, one unit, more than one block of 64 columns.
SHAPES = [(6, 33, 64), (4, 5, 150), (9, 1, 300), (1, 1, 1), (3, 7, 33)]


def drawn(T: int, B: int, H: int, V: int | None = None, seed: int = SEED, **options: Any) -> Tensor:
    """The normal numbers in hs: W_hh is 0, and relu, where b_h is large, changes nothing."""
    call = make(T, B, H, V, cell="relu", dtype=torch.float64, **options).call
    rest = {"W_hh": 0 * call.W_hh, "b_h": 0 * call.b_h + 100, "noise": 0.5, "seed": seed}
    hs, _, _ = native.rnn_forward(call._replace(x=0 * call.x, **rest), True)
    return (hs - 100) / 0.5


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        (0, [0x531C7E4F, 0x39491EE5, 0x2C855A92, 0x3D6ABF9A]),
        (WORD - 1, [0xC4189358, 0x1C9CC83A, 0xD5881C67, 0x6A0A89E0]),
    ],
)
def test_threefry_gives_the_answers_of_its_authors(word: int, answer: list[int]) -> None:
    words = threefry([word] * 4, [torch.tensor(word)] * 4)
    assert [each.item() for each in words] == answer


@pytest.mark.parametrize("V", [None, 5, 1000], ids=["dense", "table", "large table"])
@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_are_those_of_the_seed_and_the_place(
    shape: tuple[int, int, int], V: int | None, threads: int
) -> None:
    T, B, H = shape
    want = normals(SEED, T * B, H).view(T, B, H)
    torch.testing.assert_close(drawn(*shape, V), want, rtol=0, atol=TOLERANCE)


def test_both_directions_have_numbers_of_their_own() -> None:
    T, B, H = 4, 3, 33
    want = torch.cat([normals(SEED, T * B, H, second) for second in (False, True)], -1)
    want = want.view(T, B, 2 * H)
    torch.testing.assert_close(drawn(T, B, H, both=True), want, rtol=0, atol=TOLERANCE)
    backwards = drawn(T, B, H, reverse=True)
    torch.testing.assert_close(backwards, want[..., H:], rtol=0, atol=TOLERANCE)


def test_packed_rows_are_numbered_as_they_lie() -> None:
    lengths = [6, 4, 4, 1]
    want = normals(SEED, sum(lengths), 70)
    torch.testing.assert_close(drawn(6, 4, 70, lengths=lengths), want, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("cell", ["tanh", "leaky_tanh"])
@pytest.mark.parametrize("V", [None, 5])
@pytest.mark.parametrize("shape", [(35, 33, 64), (6, 5, 150), (12, 1, 300)])
def test_a_call_is_that_of_noisy_inputs(
    shape: tuple[int, int, int], V: int | None, cell: str
) -> None:
    """Also its gradients, to which the noise is a constant."""
    T, B, H = shape
    case = make(*shape, V, cell=cell, resets=True)
    noisy = case._replace(call=case.call._replace(noise=0.3, seed=SEED))

    def with_noise(r: Any) -> Any:
        u = r.x if r.ids is None else r.x[r.ids]
        return r._replace(x=u + 0.3 * normals(SEED, T * B, H).view(T, B, H).to(u.dtype), ids=None)

    got = run(native, noisy)
    same = run(native, case._replace(call=with_noise(case.call)))
    wide = case.to(torch.float64)
    truth = run(native, wide._replace(call=with_noise(wide.call)))
    for name in got.keys() - {"x"}:
        assert_close_to_f64(name, got[name], same[name], truth[name])
    if V is not None:
        want = torch.zeros(V, H, dtype=torch.float64)
        want.index_add_(0, wide.call.ids.flatten(), truth["x"].flatten(0, 1))
        torch.testing.assert_close(got["x"].double(), want, rtol=1e-4, atol=1e-4)


def test_numbers_are_normal_and_independent() -> None:
    T, B, H = 40, 50, 512
    z = drawn(T, B, H)
    n = z.numel()
    ordered = z.flatten().sort().values
    distribution = 0.5 * torch.erfc(-ordered / math.sqrt(2))
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = torch.maximum(steps[1:] - distribution, distribution - steps[:-1]).max()
    assert distance * math.sqrt(n) < 1.95  # Kolmogorov and Smirnov's test at 0.1 %
    others = [drawn(T, B, H, seed=SEED + 1), drawn(T, B, H, seed=SEED + WORD)]
    pairs = [(z, other) for other in others]
    pairs += [(z.roll(shift, axis), z) for axis in range(3) for shift in (1, 4, 8, 16)]
    for left, right in pairs:
        for f in (lambda v: v, torch.square):
            a, b = f(left) - f(left).mean(), f(right) - f(right).mean()
            correlation = (a * b).mean() / (a.std() * b.std())
            assert abs(correlation) * math.sqrt(n) < 4.5


@pytest.mark.full
@pytest.mark.parametrize("instruction_set", instruction_sets.others())
def test_on_every_instruction_set(instruction_set: str) -> None:
    instruction_sets.run_again([__file__], "numbers or noisy", instruction_set)
