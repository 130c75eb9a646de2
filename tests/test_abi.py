"""csrc/torch_abi.h against the headers of the installed torch: the compiler compares them."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch

ABI_HEADER = Path(__file__).parents[1] / "csrc" / "torch_abi.h"
TORCH_HEADERS = Path(torch.__file__).parent / "include"
TORCH_SHIM = "#include <torch/csrc/stable/c/shim.h>\n"


def compiler_messages(tmp_path: Path, source: str) -> str:
    """What the compiler has to say against the source; empty when it accepts it."""
    file = tmp_path / "source.cpp"
    file.write_text(source)
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    flags = ["-std=c++20", "-fsyntax-only", f"-I{TORCH_HEADERS}"]
    done = subprocess.run([*compiler, *flags, str(file)], capture_output=True, text=True)
    return done.stderr if done.returncode else ""


def declared_functions() -> list[str]:
    """The functions of the header that every torch from 2.11 on must have."""
    block = ABI_HEADER.read_text().split('extern "C" {')[1].split('}  // extern "C"')[0]
    always = [part for part in block.split(";") if "__attribute__((weak))" not in part]
    return re.findall(r"\b((?:aoti_)?torch_\w+)\(", ";".join(always))


def uses(functions: list[str]) -> str:
    return "".join(f"auto* use_{name} = &{name};\n" for name in functions)


def test_declarations_agree_with_the_installed_torch(tmp_path):
    assert compiler_messages(tmp_path, ABI_HEADER.read_text() + TORCH_SHIM) == ""


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
