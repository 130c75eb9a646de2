"""`rnnfast build` and the gate on the kernels' resources; no GPU is needed."""

import json
import shutil

import pytest

from rnnfast.backends import library
from rnnfast.backends.cuda import kernel_table, nvrtc
from rnnfast.program import cli
from support import cuda_resources

pytestmark = [
    pytest.mark.skipif(bool(library.load_error()), reason=library.load_error()),
    pytest.mark.skipif(bool(nvrtc.load_error()), reason=nvrtc.load_error()),
]


@pytest.fixture(autouse=True)
def _two_kernels(tmp_path, monkeypatch):
    """The table's first row, without options, and one small unit."""
    monkeypatch.setenv("RNNFAST_CACHE", str(tmp_path))
    first = kernel_table.table()[0]
    monkeypatch.setattr(kernel_table, "table", lambda: (first,))
    monkeypatch.setattr(kernel_table, "_UNITS_WITH_OPTIONS", ())
    monkeypatch.setattr(kernel_table, "UNITS", {"streamed": kernel_table.UNITS["streamed"][:1]})


def test_build_fills_the_cache_and_prints_json(capsys, monkeypatch):
    assert cli.main(["build", "--arch", "80", "--json"]) == 0
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    names = sorted(row["kernel"] for row in rows)
    assert names == ["rnn_backward"] * 2 + ["rnn_forward"] * 4 + ["step_backward", "step_forward"]
    for row in rows:
        assert row["arch"] == "80"
        assert row["registers"] > 0
        assert row["spill_bytes"] == 0
        if row["unit"] == "single_block":
            assert row["shared_bytes"] > 0
    assert "compiling" not in printed.err
    monkeypatch.setattr(nvrtc, "compile_image", None)
    assert cli.main(["build", "--arch", "80"]) == 0
    text = capsys.readouterr().out
    assert "8 kernels are compiled and kept in" in text
    assert "single_block: rnn_forward -DRF_HP=32" in text


def test_build_without_a_device_asks_for_an_architecture(capsys):
    assert cli.main(["build"]) == 1
    assert "say --arch 90a" in capsys.readouterr().err


@pytest.mark.parametrize("arch", ["sm_90", "75", "9.0", ""])
def test_an_unknown_architecture_is_wrong_usage(arch, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["build", "--arch", arch])
    assert "must be 80, 86, 89, 90a" in capsys.readouterr().err


def test_present_kernels_are_within_the_committed_table():
    """Of one architecture, the first row of the table of variants; .ci/run checks all of them."""
    table = json.loads(cuda_resources.TABLE.read_text())
    same = table.get(cuda_resources.version_of("nvrtc"))
    got = {}
    for each in cuda_resources.kernels("90a"):
        for name, figures, spilled in cuda_resources.measure("nvrtc", "90a", each):
            got[name] = figures
            assert spilled == 0, name
    assert cuda_resources.worse(got, same or got) == []


@pytest.mark.skipif(not shutil.which("nvcc"), reason="there is no nvcc on the PATH")
def test_nvcc_accepts_the_kernels():
    single_block = cuda_resources.kernels("90a")[-1]
    ((_, figures, spilled),) = cuda_resources.measure("nvcc", "90a", single_block)
    assert single_block.unit == "single_block"
    assert figures["registers"] > 0
    assert spilled == 0


def test_the_gate_names_what_got_worse():
    table = {"a": {"registers": 100, "shared_bytes": 0}}
    more = {"a": {"registers": 101, "shared_bytes": 16}}
    assert cuda_resources.worse(table, table) == []
    assert cuda_resources.worse({"a": {"registers": 90, "shared_bytes": 0}}, table) == []
    assert cuda_resources.worse(more, table) == [
        "a: registers 101, at most 100",
        "a: shared_bytes 16, at most 0",
    ]
    assert "not in cuda_resources.json" in cuda_resources.worse(more, {})[0]
