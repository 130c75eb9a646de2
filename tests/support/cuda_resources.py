"""The gate on what the CUDA kernels take of a multiprocessor; needs no GPU.

    python tests/support/cuda_resources.py [--compiler nvcc] [--arch 90a] [--every 4 | --write]

Compiles every kernel that kernel_table.py lists and compares its registers and its shared memory
with the table in cuda_resources.json. Fails where one takes more, or spills a register; --write
makes the present figures the table, --every 4 takes a fourth of the kernels.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rnnfast.backends import library
from rnnfast.backends.cuda import bridge, kernel_table, nvrtc
from rnnfast.backends.cuda.nvrtc import Compiled

TABLE = Path(__file__).parent / "cuda_resources.json"
ARCHS = ("80", "90a", "100", "120")

Figures = dict[str, int]  # registers, shared_bytes


def kernels(arch: str) -> list[kernel_table.Kernels]:
    """All of an architecture, one cell of each: another activation takes as much.

    Of those with options it is the leaky cell, which takes more than the plain one.
    """
    every = kernel_table.kernels(int(arch.rstrip("a")))
    smaller = re.compile("RF_CELL=[13]|RF_CELL=0.*RF_OPTIONS=1")
    return [each for each in every if not smaller.search(each.options)]


def compile_by_nvcc(unit: str, options: str, arch: str) -> Compiled:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in bridge.sources().items():
            Path(folder, name).parent.mkdir(exist_ok=True)
            Path(folder, name).write_text(text)
        flags = ["-std=c++20", f"-arch=sm_{arch}", "--expt-relaxed-constexpr", "-Xptxas", "-v"]
        flags += ["-I.", *options.split()]
        command = ["nvcc", "-cubin", *flags, f"{unit}.cu", "-o", "out.cubin"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise nvrtc.CompilerError(f"{' '.join(command)}\n{done.stderr}")
        image = Path(folder, "out.cubin").read_bytes()
        return Compiled(image, nvrtc.parse_report(done.stdout + done.stderr))


def compile_by_nvrtc(unit: str, options: str, arch: str) -> Compiled:
    return nvrtc.compile_image(unit, options, arch, bridge.sources())


COMPILERS = {"nvrtc": compile_by_nvrtc, "nvcc": compile_by_nvcc}


def version_of(compiler: str) -> str:
    if compiler == "nvrtc":
        return f"nvrtc {nvrtc.version()}"
    done = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"release ([\d.]+)", done.stdout)
    assert found is not None, done.stdout
    return f"nvcc {found[1]}"


def measure(
    compiler: str, arch: str, each: kernel_table.Kernels
) -> Iterator[tuple[str, Figures, int]]:
    """(name, figures, spilled bytes) of each kernel of a unit."""
    made = COMPILERS[compiler](each.unit, each.options, arch)
    for name, resources in made.resources.items():
        options = each.options.replace("-DRF_", "").lower()
        figures = {
            "registers": resources.registers,
            "shared_bytes": resources.shared_bytes + each.shared_bytes,
        }
        yield f"sm_{arch} {name} {options}", figures, resources.spill_bytes


def worse(got: dict[str, Figures], table: dict[str, Figures]) -> list[str]:
    """What takes more than the table says, a line each."""
    lines = []
    for name, figures in got.items():
        if name not in table:
            lines.append(f"{name}: not in {TABLE.name}; write it anew with --write")
            continue
        for what, value in figures.items():
            allowed = table[name].get(what, value)
            if value > allowed:
                lines.append(f"{name}: {what} {value}, at most {allowed}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiler", choices=COMPILERS, default="nvrtc")
    parser.add_argument("--arch", action="append", choices=ARCHS)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th kernel alone")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    options = parser.parse_args()
    if options.write and options.every != 1:
        parser.error("--write takes all kernels, so that none is lost: leave out --every")
    if error := library.load_error():
        raise SystemExit(error)
    got: dict[str, Figures] = {}
    problems = []
    every = slice(None, None, options.every)
    jobs = [(arch, each) for arch in options.arch or ARCHS for each in kernels(arch)[every]]
    with ThreadPoolExecutor(options.jobs) as pool:
        made = pool.map(lambda job: list(measure(options.compiler, *job)), jobs)
        for name, figures, spilled in (row for rows in made for row in rows):
            got[name] = figures
            if spilled:
                problems.append(f"{name}: {spilled} bytes of registers spilled")
    version, known = version_of(options.compiler), json.loads(TABLE.read_text())
    if options.write:
        replaced = tuple(f"sm_{arch} " for arch in options.arch or ARCHS)
        others = {k: v for k, v in known.get(version, {}).items() if not k.startswith(replaced)}
        known[version] = dict(sorted({**others, **got}.items()))
        text = json.dumps(known).replace('{"sm_', '{\n"sm_').replace('}, "', '},\n"')
        TABLE.write_text(text.replace("}}", "}\n}") + "\n")
    elif version in known:
        problems += worse(got, known[version])
    else:  # another compiler allocates otherwise
        print(f"{TABLE.name} has no figures of {version}: spills alone are checked")
    print("\n".join(problems))
    print(f"{len(got)} kernels by {version}: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
