"""Compiles the Triton kernels for GPUs that need not be there, and counts what they use.

    python tests/support/triton_resources.py           compare with triton_resources.json
    python tests/support/triton_resources.py --write   write it anew

What is compiled is what the backend launches: its functions run on CPU tensors with a `launch` that
notes kernel, types and constants. A kernel must not spill; with the Triton that wrote the file it
must not take more registers or shared memory than it says either.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
import triton as compiler
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rnnfast.backends.triton import (
    clip_norm,
    cross_entropy,
    embedding,
    generate,
    recurrence,
    triton,
)

sys.path.append(str(Path(__file__).parents[1]))  # where it runs as a script
from support import untyped

TABLE = Path(__file__).with_name("triton_resources.json")
ARCHITECTURES = (80, 90, 100)
CUOBJDUMP = Path(compiler.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float64: "*fp64",
    torch.int64: "*i64",
}


@dataclass(frozen=True)
class Launch:
    """A kernel as Triton specialises it for a call."""

    kernel: object
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, object], ...]
    multiples_of_16: tuple[int, ...]  # positions of the arguments that are
    warps: int

    def __str__(self) -> str:
        pointers = [t for _, t in self.signature if t.startswith("*")]
        name = self.kernel.fn.__name__.removesuffix("_kernel")  # type: ignore[attr-defined]
        constants = " ".join(f"{k}={v}" for k, v in self.constants)
        floats = next(t for t in pointers if t not in ("*i64", "*fp64"))
        return f"{name} {floats[1:]} {constants}"


@contextmanager
def noted() -> Iterator[list[Launch]]:
    """Launches inside the block are noted instead of done."""
    launches: list[Launch] = []

    def note(kernel, grid, *args, num_warps=4, **constants):
        signature, fixed, multiples = {}, dict(constants), []
        for i, (param, arg) in enumerate(zip(kernel.params, args, strict=False)):
            if arg is None:
                signature[param.name], fixed[param.name] = "constexpr", None
            elif isinstance(arg, Tensor):
                signature[param.name] = TYPES[arg.dtype]
                multiples.append(i)
            elif isinstance(arg, float):
                signature[param.name] = "fp32"
            else:
                signature[param.name] = "i32"
                if arg % 16 == 0 and not param.do_not_specialize:
                    multiples.append(i)
        signature |= dict.fromkeys(constants, "constexpr")
        launches.append(
            Launch(kernel, (*signature.items(),), (*fixed.items(),), (*multiples,), num_warps)
        )

    modules = (recurrence, embedding, cross_entropy, clip_norm, generate)
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(mock.patch.object(module, "launch", note))
        yield launches


class Model:
    """Arguments of a model; what they hold does not matter."""

    def __init__(self, H: int, V: int, dtype: torch.dtype = torch.float32, B: int = 32) -> None:
        shapes = ((V, H), (H, H), (H,), (H, V), (V,))
        self.ids = torch.zeros((B, 3), dtype=torch.int64).T
        self.params = [torch.zeros(shape, dtype=dtype) for shape in shapes]
        self.grads = [torch.zeros_like(p) for p in self.params]
        self.h = torch.zeros(B, H, dtype=dtype)

    def step(self, precision: str = "highest") -> None:
        with mock.patch.object(torch, "get_float32_matmul_precision", return_value=precision):
            args = (self.ids, self.ids, self.params, self.grads, self.h)
            untyped.train_step_(triton, *args, 1.0, 1.0, False)

    def generate(self) -> None:
        uniforms = torch.zeros(5, len(self.h))
        untyped.decode(triton, self.ids[0], *self.params, self.h, 5, 1.0, uniforms, False)


def main_launches() -> list[Launch]:
    """Of a character model in float32, as large as one program takes it."""

    def calls() -> None:
        model = Model(128, 28)
        model.step()
        model.generate()

    return _of(calls)


def all_launches() -> list[Launch]:
    """Of every variant that the backend knows."""

    def calls() -> None:
        half = (torch.bfloat16, torch.float16)
        for H in (16, 32, 64, 128, 512):
            Model(H, 28).step()
            Model(H, 28, B=512).step("high")
            Model(H, 28).generate()
        for H in (16, 32, 64, 128, 256, 512):
            Model(H, 28, half[0]).step()
        Model(128, 28, half[1]).step()
        for V in (8, 60, 300):  # one block of each size, and several
            Model(64, V).step()
            Model(64, V).step("high")
            Model(64, V, half[0]).step()
        for H, V in ((128, 300), (1024, 28), (4096, 4096)):
            Model(H, V).generate()
        model = Model(128, 28)
        untyped.decode(triton, model.ids[0], *model.params, model.h, 5, 1.0, None, False)
        triton.clip_grads_(model.grads, 1.0, False)
        out = untyped.rnn_cross_entropy(
            triton, model.ids, model.ids, *model.params, model.h, True, False, False
        )
        hs = out[1].expand(3, -1, -1)
        untyped.rnn_backward(
            triton, hs, hs[0], hs, None, 1, model.params[1], hs[0], True, *[True] * 3
        )

    return list(dict.fromkeys(main_launches() + _of(calls)))


def _of(calls: Callable[[], object]) -> list[Launch]:
    with noted() as launches:
        calls()
    return list(dict.fromkeys(launches))


def resources(launch: Launch, architecture: int) -> dict[str, int]:
    """Registers of a thread, bytes of local memory (spills), bytes of shared memory."""
    source = ASTSource(
        fn=launch.kernel,
        signature=dict(launch.signature),
        constexprs=dict(launch.constants),
        attrs={(i,): [["tt.divisibility", 16]] for i in launch.multiples_of_16},
    )
    options = {"num_warps": launch.warps, "enable_fp_fusion": True}
    compiled = compiler.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        done = subprocess.run(
            [CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    used = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", done.stdout))
    return {
        "registers": int(used["REG"]),
        "spilled": int(used["STACK"]) + int(used["LOCAL"]),
        "shared": int(compiled.metadata.shared),
    }


def complaints(launches: list[Launch], architecture: int) -> list[str]:
    """What is worse than it may be."""
    committed = json.loads(TABLE.read_text())
    same = committed["triton"] == compiler.__version__
    found = []
    for launch in launches:
        name, got = f"{launch} sm_{architecture}", resources(launch, architecture)
        limit = committed["kernels"].get(name)
        if got["spilled"]:
            found.append(f"{name} spills {got['spilled']} bytes")
        if limit is None:
            found.append(
                f"{name} is not in {TABLE.name}: python tests/support/triton_resources.py --write"
            )
        elif same:
            worse = [key for key in limit if got[key] > limit[key]]
            found += [f"{name}: {key} {got[key]}, was {limit[key]}" for key in worse]
    return found


def main() -> int:
    launches = all_launches()
    if "--write" in sys.argv:
        kernels = {}
        for launch in launches:
            for architecture in ARCHITECTURES:
                kernels[f"{launch} sm_{architecture}"] = resources(launch, architecture)
        lines = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(kernels.items())]
        text = ",\n".join(lines)
        TABLE.write_text(f'{{"triton": "{compiler.__version__}", "kernels": {{\n{text}\n}}}}\n')
        spilling = [name for name, used in kernels.items() if used["spilled"]]
        print(f"{len(kernels)} kernels; spills: {spilling or 'none'}")
        return len(spilling)
    found = [each for a in ARCHITECTURES for each in complaints(launches, a)]
    print(
        "\n".join(found) or f"{len(launches)} kernels on {len(ARCHITECTURES)} architectures: fine"
    )
    return len(found)


if __name__ == "__main__":
    sys.exit(main() > 0)
