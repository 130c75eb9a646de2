"""The GPU suite: see bench/gpu/ for its stages. Needs no network; `--dry` rehearses it on a CPU."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.gpu import cycles
from bench.gpu.picture import draw
from bench.gpu.plan import STAGES, TOTAL
from bench.gpu.report import report
from bench.gpu.runner import Run


def main(arguments: list[str]) -> int:
    """Run the stages, then print the tables. 1 where something was wrong or left out."""
    options = _options(arguments)
    if not options.dry and (reason := _why_no_gpu()):
        print(f"bench: error: {reason}; --dry rehearses the suite without a GPU", file=sys.stderr)
        return 1
    run = Run(options.out, options.dry, options.limit, options.commit, options.emulated)
    run.stages(options.stages)
    rows = run.result["rows"]
    measured = cycles.table(rows, run.file.with_name(f"{run.file.stem}-variants.json"))
    run.result["variants_measured"] = measured
    run.save()
    text = report(run.result)
    run.file.with_suffix(".md").write_text(text + "\n")
    draw(run.result, run.file.with_suffix(".png"))
    print(f"\n{text}\n\n{run.file} in {run.result['seconds']:g} s")
    return 0 if run.is_clean() else 1


def _why_no_gpu() -> str:
    import torch

    return "" if torch.cuda.is_available() else "torch sees no CUDA device"


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run.py --suite gpu", description=__doc__)
    names, here = [entry.name for entry in STAGES], Path(__file__).resolve().parents[1]
    add = parser.add_argument
    add("--dry", action="store_true", help="rehearse without a GPU; gives no GPU figure")
    add("--out", type=Path, default=here / "results", help="folder of the result")
    add("--limit", type=float, default=TOTAL, help="seconds for all stages (default %(default)s)")
    add("--stages", nargs="+", choices=names, default=names, metavar="STAGE", help=" ".join(names))
    add("--commit", help="of this checkout, for a copy of it that git knows nothing of")
    add("--emulated", action="store_true", help="with --dry: the CUDA kernels under the emulator")
    options = parser.parse_args(arguments)
    if options.emulated and not options.dry:
        parser.error("--emulated is a rehearsal: give --dry as well")
    return options
