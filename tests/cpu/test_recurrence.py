"""The recurrence kernels against the plain loop in extended precision."""

import multiprocessing
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rnnfast.backends.compiled import native
from rnnfast.backends.reference import reference
from support import instruction_sets, untyped
from support.problems import check, check_needs, make, run
from support.threads import check_same_bits


@pytest.fixture(params=[torch.float32, torch.float64], ids=["f32", "f64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("relu", [False, True], ids=["tanh", "relu"])
@pytest.mark.parametrize("V", [None, 1, 5, 28])
@pytest.mark.parametrize("H", [1, 3, 17, 33, 64, 70, 130])
def test_hidden_sizes(H: int, V: int | None, relu: bool, dtype: torch.dtype) -> None:
    check(native, make(9, 5, H, V, relu=relu, dtype=dtype))


@pytest.mark.parametrize("V", [None, 28, 1000])
@pytest.mark.parametrize("B", [1, 2, 3, 5, 32, 33])
@pytest.mark.parametrize("T", [1, 2, 35])
def test_batches_and_steps(T: int, B: int, V: int | None, dtype: torch.dtype) -> None:
    check(native, make(T, B, 70, V, dtype=dtype))


@pytest.mark.parametrize(("B", "H"), [(1, 200), (2, 200), (33, 96)])
def test_large_enough_for_all_threads(B: int, H: int, dtype: torch.dtype) -> None:
    check(native, make(12, B, H, 28, dtype=dtype))


@pytest.mark.parametrize("V", [None, 5])
def test_several_rows_split_by_columns(V: int | None, dtype: torch.dtype) -> None:
    """So it is where W_hh is larger than a core's cache."""
    check(native, make(3, 9, 700, V, dtype=dtype))


@pytest.mark.parametrize("V", [None, 5])
def test_many_steps(V: int | None, dtype: torch.dtype) -> None:
    check(native, make(300, 3, 33, V, dtype=dtype))


@pytest.mark.parametrize("threads", [1, 3, 5])
@pytest.mark.parametrize(("B", "H"), [(33, 64), (5, 150), (1, 300)])
@pytest.mark.parametrize("V", [None, 5, 28, 1000])
def test_thread_counts(threads: int, B: int, H: int, V: int | None, dtype: torch.dtype) -> None:
    torch.set_num_threads(threads)
    check(native, make(6, B, H, V, dtype=dtype))


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
    check(native, replace(p, grad_hs=torch.ones((), dtype=dtype).expand(7, 6, 33)))


@pytest.mark.parametrize("missing", ["b_h", "grad_hs", "grad_h_last"])
@pytest.mark.parametrize("V", [None, 28])
def test_missing_arguments(missing: str, V: int | None, dtype: torch.dtype) -> None:
    check(native, replace(make(5, 4, 33, V, dtype=dtype), **{missing: None}))


@pytest.mark.parametrize("V", [None, 28, 1000])
def test_only_what_is_needed(V: int | None) -> None:
    check_needs(native, make(5, 9, 33, V))


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
    check_same_bits(lambda problem: run(native, problem), problems)


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


@pytest.mark.full
@pytest.mark.parametrize("isa", instruction_sets.other_kernels())
def test_instruction_sets(isa: str) -> None:
    """This file's sizes and thread counts again, in a process of its own."""
    which = "large or empty or nan or missing or sizes or batches or thread_counts"
    instruction_sets.run_again([__file__], which, isa)
