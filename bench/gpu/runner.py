"""Runs the stages, ends what hangs, and keeps what was found after each of them."""

from __future__ import annotations

import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import machine
from bench.gpu.plan import STAGES, TOTAL, Entry
from bench.protocol import ROOT

REHEARSAL = (
    "REHEARSAL WITHOUT A GPU: every time in here was taken on a CPU with tiny shapes and other "
    "backends in the GPU's place. It is no GPU figure and says nothing about one."
)
_RESTARTS = 5
_REHEARSAL_PATIENCE = 4.0  # a CPU that others use as well may take its time
_FEWEST_SECONDS = 8.0  # with less there is no point in starting a stage


class Run:
    """One run of the suite: a folder, a deadline, and the rows so far."""

    def __init__(
        self,
        out: Path,
        dry: bool,
        total: float = TOTAL,
        commit: str | None = None,
        emulated: bool = False,
    ) -> None:
        self.out, self.dry = out, dry
        self._flags = ["--dry"] * dry + ["--emulated"] * emulated
        self._patience = _REHEARSAL_PATIENCE if dry else 1.0
        self._began = time.monotonic()
        self._end = self._began + total * self._patience
        out.mkdir(parents=True, exist_ok=True)
        self.file = out / ("gpu-rehearsal.json" if dry else "gpu.json")
        self._log = self.file.with_suffix(".log").open("wb")
        self.result: dict[str, Any] = {
            "suite": "gpu",
            "rehearsal": dry,
            **({"note": REHEARSAL} if dry else {}),
            "date": datetime.date.today().isoformat(),
            **(machine.commit() if commit is None else {"commit": commit, "dirty": None}),
            "machine": machine.describe(),
            "versions": {"python": platform.python_version()},
            "stages": {},
            "rows": [],
        }

    def stages(self, names: list[str]) -> None:
        """All stages of these names, in the plan's order."""
        for entry in STAGES:
            if entry.name in names:
                self._stage(entry)
                self.save()

    def is_clean(self) -> bool:
        """Whether every stage ended by itself and found nothing wrong."""
        wrong = any(row.get("ok") is False for row in self.result["rows"])
        return not wrong and not any(s["failures"] for s in self.result["stages"].values())

    def save(self) -> None:
        """Whole or not at all."""
        self.result["seconds"] = round(time.monotonic() - self._began, 1)
        rows = ",\n".join(json.dumps(row) for row in self.result["rows"])
        head = json.dumps({**self.result, "rows": None}, indent=1)
        part = self.file.with_suffix(".part")
        part.write_text(head.replace('"rows": null', f'"rows": [\n{rows}\n]') + "\n")
        part.replace(self.file)

    def _stage(self, entry: Entry) -> None:
        """Start a stage, and again behind whatever ended it."""
        began, start = time.monotonic(), 0
        failures: list[str] = []
        end = min(began + entry.limit * self._patience, self._end)
        rows: list[dict[str, Any]] = []
        for _ in range(1 + _RESTARTS):
            if end - time.monotonic() < _FEWEST_SECONDS:
                failures.append("no time left")
                break
            new, failure = self._process(entry, start, end)
            rows += new
            if not failure:
                break
            at = [row["at"] for row in new if "at" in row]
            failures.append(failure + (f" at {_item(new)}" if at else ""))
            if not at:
                break
            start = at[-1] + 1
        seconds = round(time.monotonic() - began, 1)
        found = [row for row in rows if "at" not in row]
        notes = [row["note"] for row in found if "note" in row]
        self.result["rows"] += found
        record = {"seconds": seconds, "failures": failures, "notes": notes}
        self.result["stages"][entry.name] = record
        told = [f"{entry.name}: {len(found)} rows in {seconds:g} s", *failures, *notes]
        print("; ".join(told), flush=True)

    def _process(self, entry: Entry, start: int, end: float) -> tuple[list[dict[str, Any]], str]:
        """The rows of one process, and what ended it; "" where it ended by itself."""
        file = self.file.with_suffix(f".{entry.name}.rows")
        file.unlink(missing_ok=True)
        file.touch()
        budget = max(1.0, end - time.monotonic() - 6)  # the start takes some seconds
        command = [*command_of(entry, file, budget, start), *self._flags]
        self._log.write(f"== {' '.join(command)}\n".encode())
        self._log.flush()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        failure = _watch(process, file, entry.quiet * self._patience, end)
        text = file.read_text()
        file.unlink()
        return [
            json.loads(line)
            for line in text.splitlines()
            if line.startswith('{"stage"') and line.endswith("}")
        ], failure


def command_of(entry: Entry, file: Path, budget: float, start: int) -> list[str]:
    """A worker that begins at the item `start` and ends by itself after `budget` seconds."""
    command = [sys.executable, "-m", "bench.gpu.worker", entry.name, str(file)]
    return [*command, "--budget", f"{budget:.0f}", "--start", str(start)]


def _watch(process: subprocess.Popen[bytes], file: Path, quiet: float, end: float) -> str:
    """Wait for a process; end it, with all its children, when it hangs or its time is up."""
    size, changed = 0, time.monotonic()
    try:
        while (code := process.poll()) is None:
            time.sleep(0.05)
            now = time.monotonic()
            if (new := file.stat().st_size) != size:
                size, changed = new, now
            if now > end:
                return "ended: its time was up"
            if now - changed > quiet:
                return f"ended: nothing new for {quiet:g} s"
        return f"exit code {code}" if code else ""
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _item(rows: list[dict[str, Any]]) -> str:
    return next(str(row["item"]) for row in reversed(rows) if "item" in row)
