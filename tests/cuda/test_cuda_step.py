"""The CUDA kernels of a training step beside the recurrence, emulated on the CPU."""

import math

import pytest
import torch

from support.compare import assert_close_to_f64
from support.cuda_checks import before_nan, check_finds, sums_by_torch, torch_cross_entropy
from support.cuda_kernels import gradients, readout, sum_parts, weight_product
from support.emulator import build
from support.sweep import sweep

pytestmark = pytest.mark.skipif(build.why_not() != "", reason=build.why_not())

F32, F64 = torch.float32, torch.float64
SEEDS = sweep([0, 1, 2], 0)
ERROR_TARGET = 2


def assert_right(name, got, same_dtype, f64):
    if got.dtype == F64:  # in which torch would be its own truth
        torch.testing.assert_close(got, f64, msg=lambda text: f"{name}: {text}")
    else:
        assert_close_to_f64(name, got, same_dtype, f64)


# ---- readout.cu


def readout_by_torch(hs, W_hq, b_q, targets):
    """loss, grad_logits, grad_hs, grad_b_q."""
    losses, grad_logits = torch_cross_entropy(hs @ W_hq + b_q, targets)
    return losses.sum(), grad_logits, grad_logits @ W_hq.T, grad_logits.sum(0)


def make_readout(T, B, H, V, dtype=F32):
    values = torch.randn(T * B, H).tanh(), torch.randn(H, V), torch.randn(V)
    return *(before_nan(each.to(dtype)) for each in values), torch.randint(V, (B, T)).T


NAMES = ("loss", "grad_logits", "grad_hs", "grad_b_q")
# T, B, H, V, columns; tiles of 256, 128 and 64 rows of W_hq.
READOUTS = [
    (1, 1, 1, 1, 1),
    (3, 11, 31, 28, 1),
    (7, 5, 260, 32, 1),
    (2, 9, 65, 2, 1),
    (5, 3, 130, 33, 2),
    (4, 7, 200, 97, 4),
]


def check_readout(T, B, H, V, columns, dtype=F32, **options):
    hs, W_hq, b_q, targets = make_readout(T, B, H, V, dtype)
    same = readout_by_torch(hs, W_hq, b_q, targets)
    truth = readout_by_torch(hs.double(), W_hq.double(), b_q.double(), targets)
    *got, error = readout(hs, W_hq, b_q, targets, columns=columns, **options)
    assert error == 0
    for name, *each in zip(NAMES, got, same, truth, strict=True):
        assert_right(name, *each)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", READOUTS)
@pytest.mark.parametrize("dtype", [F32, F64], ids=["f32", "f64"])
def test_readout_agrees_with_float64(shape, dtype, seed):
    check_readout(*shape, dtype, seed=seed)


def test_readout_of_the_loss_alone():
    arguments = make_readout(3, 7, 40, 28)
    want = readout(*arguments)[0]
    loss, *untouched, _ = readout(*arguments, wants_gradient=False)
    assert torch.equal(loss, want)
    assert all(each.isnan().all() for each in untouched)


@pytest.mark.parametrize("target", [-1, 10, 2**40])
def test_readout_reports_a_target_out_of_range(target):
    *arguments, targets = make_readout(2, 3, 5, 10)
    targets[1, 1] = target
    *got, error = readout(*arguments, targets)
    assert error == ERROR_TARGET
    assert all(each.isfinite().all() for each in got)


def check_extreme_logits(**options):
    """NaN and infinity stay in their rows, as far as the equations go."""
    logits = torch.randn(6, 40)
    logits[0, 7], logits[1, 3], logits[2, 4] = math.inf, math.nan, -math.inf
    logits[3] = 3e38
    logits[4] = -math.inf
    logits[5] = -3e38
    targets = torch.tensor([[7], [0], [4], [1], [0], [2]])
    for row in range(6):  # each is the bias of a readout of states that are zero
        arguments = torch.zeros(1, 3), torch.randn(3, 40), logits[row], targets[row : row + 1]
        want = readout_by_torch(*arguments)
        *got, _ = readout(*arguments, columns=2, **options)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, equal_nan=True)


def test_readout_of_extreme_logits():
    check_extreme_logits()


def test_readout_gives_the_same_bits_for_every_schedule():
    arguments = make_readout(5, 9, 270, 28)
    want = readout(*arguments)
    for seed in (1, 2):
        got = readout(*arguments, seed=seed, resident=2)
        assert all(torch.equal(a, b) for a, b in zip(got[:-1], want[:-1], strict=True))


# ---- gradients.cu


def make_gradients(T, B, H, V, K, dtype=F32):
    """x, ids, V and two products, of which one has its first B rows elsewhere."""
    x, logits = torch.randn(T * B, H, dtype=dtype), torch.randn(T * B, V, dtype=dtype)
    h0, hs = torch.randn(B, K, dtype=dtype), torch.randn(T * B, K, dtype=dtype)
    x, logits, h0, hs = map(before_nan, (x, logits, h0, hs))
    ids = torch.randint(V, (B, T)).T
    return x, ids, V, [(h0, hs, x), (h0[:0], hs, logits)]


def gradients_by_torch(x, ids, V, products):
    table = sums_by_torch(x, ids, V)
    products = [torch.cat(a)[: len(b)].T @ b for *a, b in products]
    return [table, x.sum(0), *products]


# T, B, H, V, K and rows of a slice
GRADIENTS = [
    (1, 1, 1, 1, 1, 32),
    (9, 5, 33, 28, 65, 32),
    (3, 70, 40, 3, 31, 64),
    (2, 40, 260, 33, 64, 64),
    (40, 2, 65, 97, 130, 96),
]


def check_gradients(*shape, rows=32, dtype=F32, **options):
    arguments = make_gradients(*shape, dtype)
    x, ids, V, products = arguments
    wide = x.double(), ids, V, [[each.double() for each in job] for job in products]
    got = gradients(*arguments, rows=rows, **options)
    for i, (parts, same, truth) in enumerate(
        zip(got, gradients_by_torch(*arguments), gradients_by_torch(*wide), strict=True)
    ):
        assert_right(f"result {i}", parts.sum(0), same, truth)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", GRADIENTS)
@pytest.mark.parametrize("dtype", [F32, F64], ids=["f32", "f64"])
def test_gradients_agree_with_float64(shape, dtype, seed):
    *sizes, rows = shape
    check_gradients(*sizes, rows=rows, dtype=dtype, seed=seed)


def half_of_rows(matrix):
    """The same, beside NaN in rows of twice the length."""
    return torch.cat((torch.full_like(matrix, math.nan), matrix), 1)[:, matrix.shape[1] :]


def check_parts_of_rows(dtype=F32, **options):
    x, ids, V, products = make_gradients(9, 5, 33, 28, 65, dtype)
    parts = [[half_of_rows(each) for each in job] for job in products]
    got = gradients(x, ids, V, parts, **options)
    for each, want in zip(got, gradients(x, ids, V, products, **options), strict=True):
        assert torch.equal(each, want)


@pytest.mark.parametrize("dtype", [F32, F64], ids=["f32", "f64"])
def test_products_of_parts_of_rows(dtype):
    check_parts_of_rows(dtype)


def test_gradients_without_ids():
    x, _, _, products = make_gradients(4, 9, 30, 5, 7)
    got = gradients(x, None, 0, products)
    want = [x.sum(0), *gradients_by_torch(x, torch.zeros(4, 9, dtype=int), 1, products)[2:]]
    for parts, total in zip(got[1:], want, strict=True):
        torch.testing.assert_close(parts.sum(0), total)


def test_gradients_leave_out_ids_beyond_the_table():
    x, ids = torch.randn(12, 4), torch.tensor([[-1, 5, 2**40, 1], [0, 1, 2, 3], [4, 4, 4, 4]])
    keep = ((ids >= 0) & (ids < 5)).reshape(-1)
    table, sums = gradients(x, ids, 5, [])
    torch.testing.assert_close(table[0], sums_by_torch(x[keep], ids.reshape(-1)[keep], 5))
    torch.testing.assert_close(sums[0], x.sum(0))


def test_an_infinity_stays_in_its_class():
    x, ids = torch.randn(40, 3), torch.randint(1, 5, (8, 5))
    x[17, 1] = math.inf
    ids[17 // 5, 17 % 5] = 0
    table = gradients(x, ids, 5, [])[0].sum(0)
    assert table[0, 1] == math.inf
    assert table[1:].isfinite().all()


# ---- sum_parts.cu


def check_sum_parts(dtype=F32, **options):
    shapes = [(9, 7, 33), (1, 300), (1, 5), (40, 1), (8, 64), (70, 31)]
    parts = [torch.randn(shape, dtype=dtype) for shape in shapes]
    got, squares = sum_parts(parts, gradients=(0, 1, 5), **options)
    for i, (part, out) in enumerate(zip(parts, got, strict=True)):
        assert_right(f"sum {i}", out, part.sum(0), part.double().sum(0))
    norm = sum(got[i].double().square().sum() for i in (0, 1, 5))
    torch.testing.assert_close(squares, norm, rtol=1e-12, atol=0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("grid", [1, 3, 100])
@pytest.mark.parametrize("dtype", [F32, F64], ids=["f32", "f64"])
def test_sum_parts_agrees_with_float64(dtype, grid, seed):
    check_sum_parts(dtype, grid=grid, seed=seed)


def check_large_squares(**options):
    _, squares = sum_parts([torch.full((1, 7), 1e25)], gradients=(0,), **options)
    torch.testing.assert_close(squares.item(), 7e50, rtol=1e-6, atol=0)


def test_squares_do_not_overflow():
    check_large_squares()


# ---- weight_product.cu


def check_weight_product(N, H, rows=64, **options):
    a, b = before_nan(torch.randn(N, H).tanh()), before_nan(torch.randn(N, H))
    got = weight_product(a, b, rows, num_first=min(N, 9), **options).sum(0)
    assert_close_to_f64("product", got, a.T @ b, a.double().T @ b.double())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("N", "H", "rows"), [(1, 4, 32), (70, 132, 64), (35, 260, 64)])
def test_weight_product_agrees_with_float64(N, H, rows, seed):
    check_weight_product(N, H, rows, seed=seed)


def check_weight_product_of_parts(**options):
    a, b = torch.randn(70, 132), torch.randn(70, 132)
    got = weight_product(half_of_rows(a), half_of_rows(b), 64, num_first=9, **options)
    assert torch.equal(got, weight_product(a, b, 64, num_first=9, **options))


def test_weight_product_of_parts_of_rows():
    check_weight_product_of_parts()


def check_many_rows(**options):
    a, b = torch.rand(1120, 8) + 1, torch.rand(1120, 8) + 1
    got = weight_product(a, b, 1120, **options)[0]
    assert_close_to_f64("product", got, a.T @ b, a.double().T @ b.double())


def test_weight_product_of_many_rows():
    """Truncated sums would be too small, were they not cut into short ones."""
    check_many_rows()


def check_that_tensor_cores_multiply(**options):
    """The emulated ones lose nothing within eight rows; a float32 sum of the same would be 0."""
    a, b = torch.ones(40, 12), torch.zeros(40, 12)
    b[:4] = torch.tensor([2.0**24, 1.0, 1.0, -(2.0**24)])[:, None]
    assert (weight_product(a, b, 64, **options) == 2).all()


def test_tensor_cores_multiply_what_is_finite():
    """What is not is computed anew: also what a chunk is that is used before it has come."""
    check_that_tensor_cores_multiply()


def test_weight_product_of_the_largest_float():
    """Its high part is infinity. Computed anew are the rows of the slice alone."""
    a, b = torch.randn(100, 12), torch.randn(100, 12)
    a[40], b[40] = torch.finfo(F32).max, 1e-37
    got = weight_product(a, b, 32).sum(0)
    assert_close_to_f64("product", got, a.T @ b, a.double().T @ b.double())


@pytest.mark.parametrize("change", [(0.5, math.inf), (0.0, -math.inf), (math.nan, 1.0)])
def test_weight_product_keeps_infinities_where_they_belong(change):
    a, b = torch.randn(40, 12).tanh(), torch.randn(40, 12)
    a[20, 1], b[20, 2] = change
    torch.testing.assert_close(weight_product(a, b, 32).sum(0), a.T @ b, equal_nan=True)


# ---- which of them run


BUGS = {
    "a row of another step": (
        lambda **options: check_readout(3, 11, 31, 28, 1, **options),
        ("readout.cu", "n / p.B * p.targets_stride_t", "n % p.B * p.targets_stride_t"),
    ),
    "the last tile kept for the first": (
        lambda **options: check_readout(3, 11, 300, 28, 1, **options),
        ("readout.cu", "if (loaded == tile) return;", "if (loaded >= 0) return;"),
    ),
    "weights overwritten too early": (
        lambda **options: check_readout(3, 11, 600, 28, 1, **options),
        ("readout.cu", "__syncthreads();  // the one before has been used", ""),
    ),
    "states read too early": (
        lambda **options: check_readout(3, 11, 100, 28, 1, **options),
        ("readout.cu", "__syncthreads();\n      multiply", "multiply"),
    ),
    "no maximum subtracted": (
        check_extreme_logits,
        ("readout.cu", "maximum = combine_lanes(maximum, Larger());", "maximum = 0;"),
    ),
    "rows beyond the last": (
        lambda **options: check_readout(3, 11, 31, 28, 1, **options),
        ("readout.cu", "at[row] = exists ? slope : Real(0);", "at[row] = slope;"),
    ),
    "h0 left out": (
        lambda **options: check_gradients(9, 5, 33, 28, 65, **options),
        ("gradients.cu", "later = chunk.first - rows.num_first", "later = chunk.first"),
    ),
    "rows taken to be as long as a part of them": (
        check_parts_of_rows,
        ("gradients.cu", "row * rows.first_row : others", "row * columns : others"),
    ),
    "a chunk overwritten too early": (
        lambda **options: check_gradients(9, 9, 33, 28, 65, rows=96, **options),
        ("gradients.cu", "__syncthreads();  // the chunk before has been used\n    load", "load"),
    ),
    "classes overwritten too early": (
        lambda **options: check_gradients(9, 9, 33, 28, 5, rows=96, **options),
        ("gradients.cu", "__syncthreads();  // the chunk before has been used\n    find", "find"),
    ),
    "the second tile of classes as the first": (
        lambda **options: check_gradients(9, 5, 33, 40, 5, **options),
        ("gradients.cu", "(slice * job.V + first + v)", "(slice * job.V + v)"),
    ),
    "the low parts left out": (
        lambda **options: check_weight_product(70, 132, **options),
        ("weight_product.cu", "low(x - high)", "low(0)"),
    ),
    "long sums truncated": (
        check_many_rows,
        ("weight_product.cu", "WarpSums chunk = {};", "WarpSums chunk = sums;\n  sums = {};"),
    ),
    "h0 left out of the large product": (
        lambda **options: check_weight_product(70, 132, **options),
        ("weight_product.cu", "later = n - rows.num_first", "later = n"),
    ),
    "rows of the large product taken to be as long as a part of them": (
        check_weight_product_of_parts,
        ("weight_product.cu", "later * rows.row", "later * rows.columns"),
    ),
    "a chunk used before it has come": (
        lambda **options: check_weight_product(70, 132, **options),
        ("weight_product.cu", "wait_copies_but<1>()", "wait_copies_but<2>()"),
    ),
    "a chunk used before others' part of it has come": (
        check_that_tensor_cores_multiply,
        ("weight_product.cu", "<1>();\n    __syncthreads();", "<1>();"),
    ),
    "a buffer filled while it is read": (
        lambda **options: check_weight_product(200, 132, rows=224, **options),
        ("weight_product.cu", "__syncthreads();  // the next copies go", "// the next copies go"),
    ),
    "a slice of another result": (
        check_sum_parts,
        ("sum_parts.cu", "p.jobs[j + 1].first_tile <= tile", "p.jobs[j + 1].first_tile < tile"),
    ),
    "the warps' sums read too early": (
        check_sum_parts,
        ("sum_parts.cu", "= sum;\n  __syncthreads();", "= sum;"),
    ),
    "squares in float32": (
        check_large_squares,
        ("sum_parts.cu", "static_cast<double>(value) * value", "value * value"),
    ),
}  # fmt: skip
QUICK = ("rows beyond the last", "h0 left out", "a slice of another result")


@pytest.mark.parametrize("name", sweep(BUGS, *QUICK))
def test_finds_a_planted_bug(name):
    check_finds(*BUGS[name], schedules=4)
