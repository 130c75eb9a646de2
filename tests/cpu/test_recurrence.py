"""The recurrence kernels against the plain loop in extended precision."""

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rnnfast.backends import library
from rnnfast.backends.compiled import native
from rnnfast.backends.reference import reference
from support import untyped
from support.compare import assert_close_to_f64

NAMES = ("hs", "h_last", "grad_x", "grad_W_hh", "grad_b_h", "grad_h0")


@dataclass(frozen=True)
class Problem:
    """Everything one forward and one backward call take."""

    x: Tensor  # [V, H] with ids, else [T, B, H]
    ids: Tensor | None  # [T, B]
    W_hh: Tensor  # [H, H]
    b_h: Tensor | None  # [H]
    h0: Tensor  # [B, H]
    relu: bool
    grad_hs: Tensor | None  # [T, B, H]
    grad_h_last: Tensor | None  # [B, H]

    def to(self, dtype: torch.dtype) -> "Problem":
        changed = {
            name: value.to(dtype)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        return replace(self, **changed)


def make(
    T: int,
    B: int,
    H: int,
    V: int | None = None,
    *,
    relu: bool = False,
    dtype: torch.dtype = torch.float32,
    radius: float = 0.99,
) -> Problem:
    """A random problem: W_hh has about the given spectral radius, V is None for a dense input."""
    g = torch.Generator().manual_seed(T * 1000003 + B * 10007 + H * 101 + (V or 0))

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=g, dtype=torch.float64)

    W_hh = normal(H, H) * (radius / H**0.5)  # the circular law
    return Problem(
        x=0.3 * (normal(T, B, H) if V is None else normal(V, H)),
        ids=None if V is None else torch.randint(0, V, (T, B), generator=g),
        W_hh=W_hh,
        b_h=0.1 * normal(H),
        h0=0.5 * normal(B, H),
        relu=relu,
        grad_hs=normal(T, B, H),
        grad_h_last=normal(B, H),
    ).to(dtype)


def run(backend: object, p: Problem) -> dict[str, Tensor]:
    """All six results of a backend."""
    hs, h_last = untyped.rnn_forward(backend, p.x, p.ids, p.W_hh, p.b_h, p.h0, p.relu)  # type: ignore[attr-defined]
    V = 0 if p.ids is None else p.x.shape[0]
    grads = untyped.rnn_backward(
        backend,  # type: ignore[attr-defined]
        p.grad_hs,
        p.grad_h_last,
        hs,
        p.ids,
        V,
        p.W_hh,
        p.h0,
        p.relu,
        True,
        True,
        True,
    )
    return dict(zip(NAMES, (hs, h_last, *grads), strict=True))


def truth_of(p: Problem) -> dict[str, Tensor]:
    """The equations in numpy's long double, so that float64 has a truth better than itself."""

    def wide(t: Tensor | None) -> np.ndarray | float:
        return 0.0 if t is None else t.detach().double().numpy().astype(np.longdouble)

    x, W_hh, b_h, h0 = wide(p.x), wide(p.W_hh), wide(p.b_h), wide(p.h0)
    grad_hs, carry = wide(p.grad_hs), wide(p.grad_h_last)
    ids = None if p.ids is None else p.ids.numpy()
    u = x if ids is None else x[ids]
    states = [h0]
    for u_t in u:
        z = u_t + states[-1] @ W_hh + b_h
        states.append(np.maximum(z, 0) if p.relu else np.tanh(z))
    hs = np.stack(states[1:])
    dz = np.zeros_like(hs)
    for t in reversed(range(len(hs))):
        dh = carry + (grad_hs[t] if p.grad_hs is not None else 0)
        dz[t] = dh * ((hs[t] > 0) if p.relu else 1 - hs[t] ** 2)
        carry = dz[t] @ W_hh.T
    grad_x = dz
    if ids is not None:
        grad_x = np.zeros_like(x)
        np.add.at(grad_x, ids, dz)
    H = W_hh.shape[0]
    grad_W_hh = np.stack(states[:-1]).reshape(-1, H).T @ dz.reshape(-1, H)
    results = (hs, hs[-1], grad_x, grad_W_hh, dz.sum((0, 1)), carry)
    return {
        name: torch.from_numpy(value.astype(np.float64))
        for name, value in zip(NAMES, results, strict=True)
    }


def check(p: Problem) -> None:
    got, same, truth = run(native, p), run(reference, p), truth_of(p)
    for name in NAMES:
        assert_close_to_f64(name, got[name], same[name], truth[name])


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    assert library.load_error() == ""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["f32", "f64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("relu", [False, True], ids=["tanh", "relu"])
@pytest.mark.parametrize("V", [None, 1, 5, 28])
@pytest.mark.parametrize("H", [1, 3, 17, 33, 64, 70, 130])
def test_hidden_sizes(H: int, V: int | None, relu: bool, dtype: torch.dtype) -> None:
    check(make(9, 5, H, V, relu=relu, dtype=dtype))


@pytest.mark.parametrize("V", [None, 28, 1000])
@pytest.mark.parametrize("B", [1, 2, 3, 5, 32, 33])
@pytest.mark.parametrize("T", [1, 2, 35])
def test_batches_and_steps(T: int, B: int, V: int | None, dtype: torch.dtype) -> None:
    check(make(T, B, 70, V, dtype=dtype))


@pytest.mark.parametrize(("B", "H"), [(1, 200), (2, 200), (33, 96)])
def test_large_enough_for_all_threads(B: int, H: int, dtype: torch.dtype) -> None:
    check(make(12, B, H, 28, dtype=dtype))


@pytest.mark.parametrize("V", [None, 5])
def test_many_steps(V: int | None, dtype: torch.dtype) -> None:
    check(make(300, 3, 33, V, dtype=dtype))


@pytest.mark.parametrize("threads", [1, 3, 5])
@pytest.mark.parametrize(("B", "H"), [(33, 64), (5, 150), (1, 300)])
@pytest.mark.parametrize("V", [None, 5, 28, 1000])
def test_thread_counts(threads: int, B: int, H: int, V: int | None, dtype: torch.dtype) -> None:
    torch.set_num_threads(threads)
    check(make(6, B, H, V, dtype=dtype))


@pytest.mark.parametrize("V", [None, 5])
def test_empty_batch(V: int | None, dtype: torch.dtype) -> None:
    results = run(native, make(4, 0, 7, V, dtype=dtype))
    assert results["hs"].shape == (4, 0, 7)
    assert results["h_last"].shape == results["grad_h0"].shape == (0, 7)
    assert results["grad_x"].shape == ((5, 7) if V else (4, 0, 7))
    for name in ("grad_x", "grad_W_hh", "grad_b_h"):
        assert not results[name].any(), name


def test_strided_inputs(dtype: torch.dtype) -> None:
    def strided(t: Tensor) -> Tensor:
        return torch.stack((t, t), -1)[..., 0]

    for V in (None, 28):
        p = make(7, 6, 33, V, dtype=dtype)
        q = replace(p, **{k: strided(v) for k, v in vars(p).items() if isinstance(v, Tensor)})
        assert not q.W_hh.is_contiguous()
        got = run(native, q)
        for name, value in run(native, p).items():
            assert torch.equal(got[name], value), name


def test_expanded_gradient(dtype: torch.dtype) -> None:
    p = make(7, 6, 33, 28, dtype=dtype)
    check(replace(p, grad_hs=torch.ones((), dtype=dtype).expand(7, 6, 33)))


@pytest.mark.parametrize("missing", ["b_h", "grad_hs", "grad_h_last"])
@pytest.mark.parametrize("V", [None, 28])
def test_missing_arguments(missing: str, V: int | None, dtype: torch.dtype) -> None:
    check(replace(make(5, 4, 33, V, dtype=dtype), **{missing: None}))


@pytest.mark.parametrize("V", [None, 28, 1000])
def test_only_what_is_needed(V: int | None) -> None:
    p = make(5, 9, 33, V)
    everything = run(native, p)
    for needed in range(8):
        need = [bool(needed & bit) for bit in (1, 2, 4)]
        grads = untyped.rnn_backward(
            native,
            p.grad_hs,
            p.grad_h_last,
            everything["hs"],
            p.ids,
            V or 0,
            p.W_hh,
            p.h0,
            p.relu,
            *need,
        )
        for name, grad, wanted in zip(NAMES[2:], grads, [True, *need], strict=True):
            assert torch.equal(grad, everything[name]) if wanted else grad.numel() == 0, name


def test_nan_and_infinity_spread_as_in_torch() -> None:
    for value in (float("nan"), float("inf"), -float("inf")):
        for relu in (False, True):
            p = make(6, 9, 33, relu=relu)
            p.x[2, 4, 17] = value
            hs, h_last = untyped.rnn_forward(native, p.x, None, p.W_hh, p.b_h, p.h0, relu)
            truth, _ = untyped.rnn_forward(reference, p.x, None, p.W_hh, p.b_h, p.h0, relu)
            assert torch.equal(hs.isnan(), truth.isnan())
            assert torch.equal(h_last, hs[-1]) or h_last.isnan().any()


def test_last_state_owns_its_storage() -> None:
    p = make(3, 2, 8, 5)
    hs, h_last = untyped.rnn_forward(native, p.x, p.ids, p.W_hh, p.b_h, p.h0, False)
    assert h_last.untyped_storage().data_ptr() != hs.untyped_storage().data_ptr()
    h_last.detach_()


@pytest.mark.parametrize(("B", "H"), [(33, 64), (1, 300), (3, 200)])
def test_same_bits_on_every_run(B: int, H: int) -> None:
    p = make(20, B, H, 28)
    first = run(native, p)
    for _ in range(10):
        for name, value in run(native, p).items():
            assert torch.equal(value, first[name]), name


def test_python_threads_at_once() -> None:
    problems = [make(20, 12, 96, 28), make(15, 1, 300, 28), make(5, 7, 33), make(10, 40, 64, 5)]
    expected = [run(native, p) for p in problems]
    wrong: list[str] = []

    def work(i: int) -> None:
        torch.set_num_threads(2)
        for _ in range(20):
            for name, value in run(native, problems[i]).items():
                if not torch.equal(value, expected[i][name]):
                    wrong.append(f"{i}: {name}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _sum_in_child(queue: "multiprocessing.Queue[float]") -> None:
    torch.set_num_threads(1)  # as torch's DataLoader does in its workers
    queue.put(run(native, make(6, 9, 64, 28))["hs"].sum().item())


def test_fork_after_use() -> None:
    run(native, make(6, 9, 64, 28))
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    child = fork.Process(target=_sum_in_child, args=(queue,))
    child.start()
    total = queue.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    torch.set_num_threads(1)
    assert total == run(native, make(6, 9, 64, 28))["hs"].sum().item()


def _instruction_sets() -> list[str]:
    supported = torch.backends.cpu.get_cpu_capability()
    return ["baseline", "avx2", "avx512"][: {"AVX512": 3, "AVX2": 2}.get(supported, 1)]


@pytest.mark.parametrize("isa", _instruction_sets())
def test_instruction_sets(isa: str) -> None:
    """This file's sizes and thread counts again, in a process of its own."""
    which = "sizes or batches or large or thread_counts or empty or nan"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            __file__,
            "-k",
            which,
        ],
        env={**os.environ, "RNNFAST_CPU_ISA": isa},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
