"""setup.py: what it builds, when, and what it does where it cannot.

The builds here are of a small stand-in for csrc/, with setup.py and the package as they are: the
kernels themselves take half a minute of compiler time and are tested elsewhere.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support.sweep import sweep

ROOT = Path(__file__).parents[2]
LIBRARY = Path("rnnfast", "_C.so")
NO_COMPILER = {"CXX": "/nonexistent/c++"}
REQUIRED = {"RNNFAST_REQUIRE": "native"}

KERNEL = """
#include "shared.h"
namespace RNNFAST_ISA { int kernel() { return kShared; } }
"""


@pytest.fixture
def source(tmp_path):
    """A checkout with almost nothing to compile."""
    tree = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "rnnfast", tree / "rnnfast", ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    files = {"standard.h": "", "ops/schemas.cpp": "", "cpu/sum.cpp": KERNEL}
    files["cpu/shared.h"] = "constexpr int kShared = 1;\n"
    files |= {f"cpu/{name}.cpp": "" for name in ("isa", "parallel", "workspace")}
    for name, text in files.items():
        path = tree / "csrc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tree


def run(arguments, cwd, **variables):
    """The finished process; its stdout is all that it wrote, where its stderr would be too."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "RNNFAST_REQUIRE": "", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def build(source, **variables):
    return run(["setup.py", "build_ext", "--inplace"], source, **variables)


def pip(command, source, *options, **variables):
    quick = ["--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check"]
    return run(["-m", "pip", command, "-v", *quick, *options, "."], source, **variables)


def compiled(done):
    """The objects that a build compiled."""
    words = done.stdout.split()
    made = {word for word, before in zip(words[1:], words, strict=False) if before == "-o"}
    return {name for name in made if name.endswith(".o")}


def objects_per_set(name):
    sets = ("baseline", "avx2", "avx512") if platform.machine() == "x86_64" else ("baseline",)
    return [f"{name}.{instruction_set}.o" for instruction_set in sets]


def test_builds_what_changed_and_nothing_else(source):
    kernels = set(objects_per_set("sum"))
    every = kernels | {"schemas.o", "isa.o", "parallel.o", "workspace.o"}
    assert compiled(build(source)) == every
    assert (source / LIBRARY).exists()
    assert compiled(build(source)) == set()
    assert (source / LIBRARY).exists()
    old = (source / LIBRARY).read_bytes()
    with (source / LIBRARY).open("rb") as loaded:
        (source / "csrc/cpu/shared.h").write_text("constexpr int kShared = 2;\n")
        assert compiled(build(source)) == kernels
        assert loaded.read() == old, "who has the library loaded keeps it"
    assert (source / LIBRARY).read_bytes() != old
    (source / "csrc/standard.h").write_text("#include <new>")
    assert compiled(build(source)) == every
    (source / "csrc/cpu/more.cpp").write_text("")
    assert compiled(build(source)) == set(objects_per_set("more"))


def test_a_build_waits_for_another(source):
    fcntl = pytest.importorskip("fcntl")
    assert build(source).returncode == 0
    with (source / "build/native/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
        second = subprocess.Popen(command, cwd=source, stdout=subprocess.DEVNULL)
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(3)
    assert second.wait() == 0


def test_links_the_lowest_instruction_set_first(source):
    # The linker keeps the first copy of an inline function: it must run on every CPU.
    build(source)
    lines = (source / "build/native/build.ninja").read_text().replace("$\n", "").splitlines()
    (link,) = (line.split() for line in lines if line.startswith("build _C.so: link"))
    order = [link.index(name) for name in objects_per_set("sum")]
    assert order == sorted(order)


def test_a_failed_build_leaves_no_library(source):
    build(source)
    (source / "csrc/cpu/sum.cpp").write_text("this is not C++")
    done = build(source)
    assert done.returncode == 0
    assert "rnnfast: installing without the native library" in done.stdout
    assert "its compilation failed" in done.stdout
    assert not (source / LIBRARY).exists()


@pytest.mark.parametrize(
    "folder", ["deep learning", "Lösung (1)", "it's", '"x"', "$HOME $x;&", "a:b"]
)
def test_a_folder_may_have_any_name(source, tmp_path, folder):
    odd = tmp_path / folder / "source"
    shutil.copytree(source, odd)
    assert "schemas.o" in compiled(build(odd, **REQUIRED))
    assert compiled(build(odd, **REQUIRED)) == set()
    (odd / "csrc/cpu/shared.h").write_text("constexpr int kShared = 2;\n")
    assert compiled(build(odd, **REQUIRED)) == set(objects_per_set("sum"))


def test_the_compiler_may_have_any_name(source, tmp_path):
    wrapper = tmp_path / "my $c++ (new)"
    wrapper.write_text('#!/bin/sh\nexec c++ "$@"\n')
    wrapper.chmod(0o755)
    done = build(source, **REQUIRED, CXX=f"{shlex.quote(str(wrapper))} -DNOTHING")
    assert done.returncode == 0, done.stdout
    assert f"{shlex.quote(str(wrapper))} -DNOTHING -std=c++20" in done.stdout


FIRST_ERRORS = [
    ("#include <missing.h>", r"csrc/ops/schemas.cpp:1:10: fatal error: missing.h: No such"),
    ("int a;\nint f() { return b; }", r"csrc/ops/schemas.cpp:2:18: error: 'b' was not decl"),
    ("void f(); void g() { f(); }", r".*undefined (reference|symbol).*f\(\)"),
]


@pytest.mark.parametrize(
    ("text", "said"),
    sweep(FIRST_ERRORS, FIRST_ERRORS[1]),
    ids=["no header", "broken", "no symbol"],
)
def test_the_compilers_first_error_stays_with_the_package(source, text, said):
    (source / "csrc/ops/schemas.cpp").write_text(text)
    (source / "csrc/cpu/isa.cpp").write_text("#warning of no matter\n")
    flags = "-Wl,-z,defs" if "g()" in text else ""
    done = build(source, CXX=f"c++ {flags}", LANGUAGE="de")
    assert done.returncode == 0, done.stdout
    reason = (source / "rnnfast" / "build_error.txt").read_text()
    assert re.match(rf"its compilation failed: {said}", reason)
    call = "functional.rnn(torch.zeros(1, 1).long(), *(torch.zeros(1, 1) for _ in range(3)))"
    for program in (
        "import rnnfast; print(rnnfast.explain())",
        "from rnnfast.program.cli import main; main(['info'])",
        f"import torch; from rnnfast import functional; {call}",
    ):
        shown = run(["-c", program], source).stdout
        assert re.search(said, shown), shown
    (source / "csrc/ops/schemas.cpp").write_text("")
    assert build(source, **REQUIRED).returncode == 0
    assert not (source / "rnnfast" / "build_error.txt").exists()


def test_the_reason_is_left_where_no_package_is_yet(source):
    done = run(["setup.py", "build_ext", "--build-lib", "new"], source, **NO_COMPILER)
    assert done.returncode == 0, done.stdout
    reason = (source / "new" / "rnnfast" / "build_error.txt").read_text()
    assert reason.startswith("no C++ compiler is there (looked for /nonexistent/c++;")


def test_a_missing_ninja_is_a_reason(source, tmp_path):
    (tmp_path / "ninja.py").write_text("raise ImportError\n")
    done = build(source, PYTHONPATH=str(tmp_path))
    assert "on plain torch: the Python package ninja is not installed" in done.stdout


def test_a_compiler_that_names_no_error_is_quoted(source, tmp_path):
    """By its first line, of whatever bytes."""
    program = tmp_path / "crashes"
    program.write_text("#!/bin/sh\nprintf '\\377 crashed\\n and left\\n'\nexit 1\n")
    program.chmod(0o755)
    done = build(source, CXX=str(program))
    assert done.returncode == 0, done.stdout
    reason = (source / "rnnfast" / "build_error.txt").read_text()
    assert reason == "its compilation failed: \\xff crashed\n"


def test_a_wheel_never_takes_over_a_stale_library(source, tmp_path):
    (source / LIBRARY).write_text("of older sources")
    assert pip("wheel", source, "-w", str(tmp_path), **NO_COMPILER).returncode == 0
    (wheel,) = tmp_path.glob("*.whl")
    assert LIBRARY.as_posix() not in zipfile.ZipFile(wheel).namelist()


@pytest.mark.parametrize("cause", ["no compiler", "broken source"])
def test_required_means_an_error(source, cause):
    if cause == "broken source":
        (source / "csrc/ops/schemas.cpp").write_text("this is not C++")
    done = build(source, **REQUIRED, **(NO_COMPILER if cause == "no compiler" else {}))
    assert done.returncode == 1
    assert "rnnfast: the native library was not built: " in done.stdout
    assert not (source / LIBRARY).exists()


def test_a_misspelt_requirement_is_an_error(source):
    done = build(source, RNNFAST_REQUIRE="nativ")
    assert done.returncode == 1
    assert "RNNFAST_REQUIRE is 'nativ'; it must be 'native' or not set" in done.stdout


def test_installs_and_runs_without_a_compiler(source, tmp_path):
    target = tmp_path / "target"
    bare = {"PATH": "/nonexistent", "CXX": ""}
    done = pip("install", source, "--target", str(target), **bare)
    assert done.returncode == 0, done.stdout
    assert "on plain torch: no C++ compiler is there (looked for c++, g++, clang++" in done.stdout
    assert not (target / LIBRARY).exists()
    assert (target / "rnnfast" / "py.typed").exists()
    program = "import rnnfast.backends.library as n; print(n.__file__, n.load_error())"
    done = run(["-c", program], tmp_path, PYTHONPATH=str(target))
    assert done.returncode == 0, done.stdout
    assert str(target) in done.stdout
    assert "the kernels were not built when rnnfast was installed: no C++ compiler" in done.stdout


def test_wheel_is_for_the_platform_and_any_python(source, tmp_path):
    done = pip("wheel", source, "-w", str(tmp_path), **REQUIRED)
    assert done.returncode == 0, done.stdout
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith(f"-py3-none-linux_{platform.machine()}.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {LIBRARY.as_posix(), "rnnfast/py.typed", "rnnfast/backends/library.py"} <= names
    assert "rnnfast/backends/cuda/kernel_table.json" in names


def test_editable_install_builds_into_the_source_tree(source):
    hook = "from setuptools import build_meta; print(build_meta.build_editable('dist'))"
    (source / "dist").mkdir()
    done = run(["-c", hook], source, **REQUIRED)
    assert done.returncode == 0, done.stdout
    assert (source / LIBRARY).exists()


def test_source_distribution_carries_what_the_build_needs(source):
    done = run(["setup.py", "sdist", "--formats=zip"], source)
    assert done.returncode == 0, done.stdout
    (archive,) = (source / "dist").glob("*.zip")
    names = {Path(*Path(name).parts[1:]).as_posix() for name in zipfile.ZipFile(archive).namelist()}
    assert {"setup.py", "csrc/ops/schemas.cpp", "csrc/cpu/sum.cpp", "csrc/cpu/shared.h"} <= names


def test_device_code_becomes_part_of_the_library(source):
    folder = source / "csrc" / "cuda" / "device"
    folder.mkdir(parents=True)
    (folder / "scale.cu").write_text('#include "scale.h"\n// R"(not the end)"\n')
    (folder / "scale.h").write_text('#include "deeper.cuh"\n#include "cells/cells.h"\n')
    (source / "csrc" / "cells").mkdir()
    (source / "csrc" / "cells" / "cells.h").write_text("// of the CPU as well\n")
    (folder / "deeper.cuh").write_text("// of the device\n")
    (folder / "launch.h").write_text("// of the host\n")
    host = source / "csrc" / "cuda" / "host"
    host.mkdir()
    (host / "sources.h").write_text((ROOT / "csrc/cuda/host/sources.h").read_text())
    assert "device_sources.o" in compiled(build(source, **REQUIRED))
    library = (source / LIBRARY).read_bytes()
    assert b'// R"(not the end)"' in library
    assert b"of the device" in library
    assert b"of the CPU as well" in library
    assert b"\0cells/cells.h\0" in library, "the name by which it is included"
    assert b"of the host" not in library
    assert compiled(build(source)) == set()
    (folder / "deeper.cuh").write_text("// of another device\n")
    assert compiled(build(source)) == {"device_sources.o"}
    assert b"of another device" in (source / LIBRARY).read_bytes()


def test_library_finds_the_torch_that_is_loaded(source):
    (source / "csrc/ops/schemas.cpp").write_text(
        'extern "C" int aoti_torch_dtype_int64();\n'
        'extern "C" __attribute__((visibility("default"))) int answer() {\n'
        "  return aoti_torch_dtype_int64();\n"
        "}\n"
    )
    build(source)
    call = "import ctypes; print(ctypes.CDLL('rnnfast/_C.so').answer())"
    assert "libtorch.so: cannot open" in run(["-c", call], source).stdout
    done = run(["-c", f"import torch; {call}"], source)
    assert done.returncode == 0, done.stdout
    assert done.stdout.strip().isdigit()
