"""csrc/cuda/host/driver.h against the CUDA toolkit's own header, where there is one."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.compiler import compiler_messages

DRIVER = Path(__file__).parents[2] / "csrc" / "cuda" / "host" / "driver.h"


def folders() -> list[Path]:
    """Where a toolkit or Triton keeps cuda.h."""
    spec = find_spec("triton")
    packages = [
        Path(p, "backends/nvidia") for p in (spec and spec.submodule_search_locations) or ()
    ]
    places = [Path("/usr/local/cuda"), *Path("/usr/local").glob("cuda-*"), *packages]
    return [place / "include" for place in places if (place / "include" / "cuda.h").exists()]


pytestmark = pytest.mark.skipif(not folders(), reason="no cuda.h: neither a toolkit nor Triton")

COMPARE = """
#include <cstddef>
#include <type_traits>
template <size_t... N>
struct Numbers {};
template <class Result, class... Arguments>
auto sizes(Result (*)(Arguments...)) -> Numbers<sizeof(Result), sizeof(Arguments)...>;
using namespace rnnfast::cuda;
"""


def comparison(header: str) -> str:
    """C++ that compiles only where both headers agree."""
    functions = re.findall(r"X\((\w+), (\w+),", header)
    assert len(functions) >= 15
    lines = [
        f"static_assert(std::is_same_v<decltype(sizes(decltype(Driver::{ours}){{}})), "
        f'decltype(sizes(&::{theirs}))>, "{theirs}");'
        for ours, theirs in functions
    ]
    same = {
        "kInvalidClusterSize": "CUDA_ERROR_INVALID_CLUSTER_SIZE",
        "kMultiprocessors": "CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT",
        "kComputeCapabilityMajor": "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR",
        "kComputeCapabilityMinor": "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR",
        "kSharedBytesOptIn": "CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN",
        "kMaxDynamicSharedBytes": "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES",
        "kNonPortableClusterAllowed": "CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED",
        "kClusterDimension": "CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION",
        "kNonBlocking": "CU_STREAM_NON_BLOCKING",
        "kDisableTiming": "CU_EVENT_DISABLE_TIMING",
        "kRelaxed": "CU_STREAM_CAPTURE_MODE_RELAXED",
        "kHostPortable": "CU_MEMHOSTALLOC_PORTABLE",
        "kHostMapped": "CU_MEMHOSTALLOC_DEVICEMAP",
        "sizeof(LaunchAttribute)": "sizeof(CUlaunchAttribute)",
        "offsetof(LaunchAttribute, value)": "offsetof(CUlaunchAttribute, value)",
        "sizeof(LaunchConfig)": "sizeof(CUlaunchConfig)",
        "offsetof(LaunchConfig, shared_bytes)": "offsetof(CUlaunchConfig, sharedMemBytes)",
        "offsetof(LaunchConfig, stream)": "offsetof(CUlaunchConfig, hStream)",
        "offsetof(LaunchConfig, attributes)": "offsetof(CUlaunchConfig, attrs)",
        "offsetof(LaunchConfig, num_attributes)": "offsetof(CUlaunchConfig, numAttrs)",
    }
    lines += [
        f'static_assert(static_cast<size_t>({a}) == static_cast<size_t>({b}), "{a}");'
        for a, b in same.items()
    ]
    return f"{header}\n#include <cuda.h>\n{COMPARE}" + "\n".join(lines) + "\n"


def messages(tmp_path, header, monkeypatch):
    compiler = shlex.join(["c++", f"-I{folders()[0]}"])
    monkeypatch.setenv("CXX", compiler)
    return compiler_messages(tmp_path, comparison(header))


def test_declarations_agree_with_cuda_h(tmp_path, monkeypatch):
    assert messages(tmp_path, DRIVER.read_text(), monkeypatch) == ""


@pytest.mark.parametrize(
    ("ours", "wrong", "says"),
    [
        ("int block, size_t shared_bytes", "int block, int shared_bytes", "MaxActiveBlocks"),
        ("kClusterDimension = 4", "kClusterDimension = 5", "kClusterDimension"),
        ("char pad[64];", "char pad[60];", "sizeof(LaunchAttribute)"),
        ("Stream stream;", "Stream priority, stream;", "offsetof(LaunchConfig, stream)"),
    ],
)
def test_a_wrong_declaration_is_seen(ours, wrong, says, tmp_path, monkeypatch):
    header = DRIVER.read_text()
    assert header.count(ours) == 1
    found = messages(tmp_path, header.replace(ours, wrong), monkeypatch)
    assert "static assertion failed" in found
    assert says in found
