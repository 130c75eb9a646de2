"""csrc/torch_abi.h against the installed torch's headers, and the operators as torch sees them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rnnfast.backends import library
from rnnfast.backends.compiled import native
from support import untyped
from support.compiler import compiler_messages

ABI_HEADER = Path(__file__).parents[2] / "csrc" / "torch" / "abi.h"
TORCH_SHIM = "#include <torch/csrc/stable/c/shim.h>\n"


def declared_functions() -> list[str]:
    """The functions of the header that every torch from 2.11 on must have."""
    block = ABI_HEADER.read_text().split('extern "C" {')[1].split('}  // extern "C"')[0]
    always = [part for part in block.split(";") if "__attribute__((weak))" not in part]
    return re.findall(r"\b((?:aoti_)?torch_\w+)\(", ";".join(always))


def uses(functions: list[str]) -> str:
    return "".join(f"auto* use_{name} = &{name};\n" for name in functions)


@pytest.mark.parametrize("kind", ["", "#define USE_CUDA\n"])
def test_declarations_agree_with_the_installed_torch(kind, tmp_path):
    assert compiler_messages(tmp_path, kind + ABI_HEADER.read_text() + TORCH_SHIM) == ""


def test_the_declarations_for_cuda_are_compared(tmp_path):
    ours = "aoti_torch_get_current_cuda_stream(int32_t device_index"
    assert ABI_HEADER.read_text().count(ours) == 1
    header = ABI_HEADER.read_text().replace(ours, ours.replace("int32_t", "int64_t"))
    messages = compiler_messages(tmp_path, "#define USE_CUDA\n" + header + TORCH_SHIM)
    assert "aoti_torch_get_current_cuda_stream" in messages


def test_installed_torch_declares_every_function(tmp_path):
    functions = declared_functions()
    assert len(functions) >= 20
    assert compiler_messages(tmp_path, TORCH_SHIM + uses(functions)) == ""


@pytest.mark.parametrize(
    ("ours", "wrong", "function"),
    [
        ("int64_t* dim)", "int32_t* dim)", "aoti_torch_get_dim"),
        ("int32_t non_blocking)", "bool non_blocking)", "aoti_torch_copy_"),
        ("size_t index, StableIValue", "int index, StableIValue", "torch_list_get_item"),
        ("AOTITorchError torch_get_num_threads", "void torch_get_num_threads", "get_num_threads"),
    ],
)
def test_a_wrong_declaration_is_seen(tmp_path, ours, wrong, function):
    header = ABI_HEADER.read_text()
    assert header.count(ours) == 1
    messages = compiler_messages(tmp_path, header.replace(ours, wrong) + TORCH_SHIM)
    assert function in messages


def test_a_missing_function_is_seen(tmp_path):
    assert "torch_no_such" in compiler_messages(tmp_path, TORCH_SHIM + uses(["torch_no_such"]))


def operator_calls():
    """(operator, arguments) for every operator, with and without its optional arguments."""
    T, B, H, V = 4, 3, 6, 5
    ids = torch.randint(V, (B, T)).T
    table, W_hh, b_h, W_hq, b_q = (torch.randn(s) for s in ((V, H), (H, H), (H,), (H, V), (V,)))
    x, hs, h0 = torch.randn(T, B, H), torch.randn(T, B, H).tanh(), torch.randn(B, H)
    first = torch.randint(V, (B,))
    yield "rnn", (table, ids, W_hh, b_h, h0, False)
    yield "rnn", (x.double(), None, W_hh.double(), None, h0.double(), True)
    yield "rnn_backward", (x, None, hs, ids, V, W_hh, h0, False, True, True, True)
    yield "rnn_backward", (None, h0, hs, None, 0, W_hh, h0, True, False, False, False)
    logits = torch.randn(T * B, V)
    yield "rnn_logits", (table, ids, W_hh, b_h, W_hq, b_q, h0, False)
    yield "rnn_logits", (x, None, W_hh, None, W_hq, b_q, h0, True)
    needs = (True, True, True)
    yield "rnn_logits_backward", (logits, h0, x, hs, ids, V, W_hh, W_hq, h0, False, *needs)
    needs = (False, False, False)
    yield "rnn_logits_backward", (logits, None, None, hs, None, 0, W_hh, W_hq, h0, True, *needs)
    yield "clip_grads_", ([torch.randn(4, 5), torch.randn(6).double()], 0.5, True)
    yield "sgd_", ([torch.randn(4, 5)], [torch.randn(4, 5)], 0.5)
    yield "decode", (first, table, W_hh, b_h, W_hq, b_q, h0, 7, 1.0, None, False)
    yield "decode", (first, table, W_hh, b_h, W_hq, b_q, h0, 7, 0.5, torch.rand(7, B), True)
    params = [table, W_hh, b_h, W_hq, b_q]
    targets = torch.randint(V, (T, B))
    yield "rnn_cross_entropy", (ids, targets, *params, h0, False, True, True)
    yield "rnn_cross_entropy", (ids, targets, *params, h0, True, False, False)
    grads = [torch.zeros_like(p) for p in params]
    yield "rnn_cross_entropy_grads_", (ids, targets, params, grads, h0, False)
    rest = (params, grads, h0.clone(), 0.5, 1.0, False, True)
    yield "train_steps_", ([ids.T, ids.T], [targets.T, targets.T], *rest, False)
    yield "train_steps_", ([ids], [targets], *rest, True)


@pytest.mark.parametrize(("name", "arguments"), list(operator_calls()))
def test_operators_are_what_torch_expects(name, arguments):
    assert library.load_error() == ""
    torch.library.opcheck(getattr(torch.ops.rnnfast, name).default, arguments)


def test_build_info_names_compiler_and_instruction_set():
    assert library.load_error() == ""
    assert re.fullmatch(
        r"(gcc|clang) .*; instruction sets: .*\bbaseline; runs \w+", library.build_info()
    )


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("sse9", "RNNFAST_CPU_ISA is 'sse9'; it must be one of: "),
        ("", "runs "),
        ("baseline", "runs baseline"),
    ],
)
def test_instruction_set_can_be_chosen(chosen, message):
    program = "from rnnfast.backends import library as n; n.load_error(); print(n.build_info())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "RNNFAST_CPU_ISA": chosen},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert message in done.stdout


def test_backward_of_no_sequences_is_zero():
    assert library.load_error() == ""
    T, H, V = 3, 4, 5
    hs, h0, ids = torch.empty(T, 0, H), torch.empty(0, H), torch.empty(T, 0, dtype=torch.int64)
    W_hh = torch.randn(H, H)
    grads = untyped.rnn_backward(native, None, None, hs, ids, V, W_hh, h0, False, True, True, True)
    assert [tuple(g.shape) for g in grads] == [(V, H), (H, H), (H,), (0, H)]
    assert all((g == 0).all() for g in grads)
