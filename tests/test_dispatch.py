"""Which backend runs, and that nobody is left to guess it."""

import os
import subprocess
import sys
import threading

import pytest
import torch

import rnnfast
from rnnfast import BackendError, FallbackWarning, dispatch, explain, use_backend
from rnnfast.backends import library
from rnnfast.backends.compiled import native
from rnnfast.backends.reference import reference
from support import models


def test_the_native_backend_is_chosen_and_every_other_one_says_why_not():
    explanation = explain()
    assert explanation.backend == "native"
    assert explanation.reasons["native"] == []
    assert "not on cuda" in explanation.reasons["cuda"][0]
    assert "not on cuda" in explanation.reasons["triton"][0]
    text = str(explanation)
    assert "backend native, chosen automatically" in text
    assert all(name in text for name in ("cuda", "triton", "native", "reference"))


@pytest.mark.parametrize("example", ["tensor", "scratch", "module"])
def test_explain_takes_tensors_and_nets(example):
    net = models.ours(models.params(3, 4, torch.float64))
    examples = {"tensor": net.params[0], "scratch": net, "module": torch.nn.Linear(2, 2).double()}
    assert explain(examples[example]).call.dtype == torch.float64
    with pytest.raises(TypeError, match="takes a tensor or a net"):
        explain(3)


def test_use_backend_forces_nests_and_ends():
    x = torch.zeros(1)
    with use_backend("reference"):
        assert dispatch.backend_for(x) is reference
        assert "forced by use_backend" in str(explain())
        with use_backend("auto"):
            assert dispatch.backend_for(x) is native
        assert dispatch.backend_for(x) is reference
    assert dispatch.backend_for(x) is native
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert dispatch.backend_for(x) is native


def test_use_backend_is_of_one_thread():
    seen = []
    with use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(explain().backend))
        thread.start()
        thread.join()
    assert seen == ["native"]


def test_unknown_and_impossible_backends_raise_all_reasons():
    with pytest.raises(BackendError, match="unknown backend 'cudnn'"), use_backend("cudnn"):
        pass
    with use_backend("cuda"), pytest.raises(BackendError, match=r"not on cuda.*torch\.float16"):
        explain(dtype=torch.float16)
    half = torch.zeros(1, dtype=torch.float16)
    with use_backend("native"), pytest.raises(BackendError, match=r"torch\.float16"):
        dispatch.backend_for(half)
    with pytest.raises(BackendError, match="no backend can run this call"):
        explain(torch.zeros(1, dtype=torch.int32))


def test_a_fallback_warns_once_per_reason():
    half = torch.zeros(1, dtype=torch.float16)
    with pytest.warns(FallbackWarning, match="torch.float16, not float32") as warnings:
        assert dispatch.backend_for(half) is reference
    assert len(warnings) == 1
    assert dispatch.backend_for(half) is reference
    with pytest.warns(FallbackWarning, match="a reason") as warnings:
        list(map(dispatch.warn_fallback, ["a reason"] * 2))
    assert len(warnings) == 1


def test_a_feature_that_a_backend_lacks_is_a_reason():
    with pytest.warns(FallbackWarning, match="native cannot serve .*: it has no gates"):
        assert dispatch.backend_for(torch.zeros(1), ("gates",)) is reference


def test_a_missing_build_falls_back_and_says_so(monkeypatch):
    monkeypatch.setattr(native, "load_error", lambda: "there is no compiler")
    with pytest.warns(FallbackWarning, match="there is no compiler"):
        assert dispatch.backend_for(torch.zeros(1)) is reference
    with use_backend("native"), pytest.raises(BackendError, match="there is no compiler"):
        dispatch.backend_for(torch.zeros(1))
    assert "there is no compiler" in dispatch.info()


def test_a_library_that_does_not_load_is_a_reason(monkeypatch, tmp_path):
    broken = tmp_path / "_C.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(library, "LIBRARY", broken)
    assert "does not load" in library.load_error.__wrapped__()
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "missing.so")
    assert "not built" in library.load_error.__wrapped__()


def _run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )


def test_the_variable_chooses_and_the_context_manager_wins():
    code = "import rnnfast as r; print(r.explain())\nwith r.use_backend('auto'): print(r.explain())"
    done = _run(code, RNNFAST_BACKEND="reference")
    assert "backend reference, forced by RNNFAST_BACKEND" in done.stdout
    assert "backend native, chosen automatically" in done.stdout
    done = _run(code, RNNFAST_BACKEND="nonsense")
    assert "RNNFAST_BACKEND: unknown backend 'nonsense'" in done.stderr


def test_info_names_versions_and_backends():
    text = dispatch.info()
    assert f"rnnfast {rnnfast.__version__}" in text
    assert torch.__version__ in text
    assert "torch.float32 on cpu: backend native" in text
    assert "torch.bfloat16 on cpu: backend reference" in text


def test_the_package_namespace_holds_public_names_only():
    public = {name for name in vars(rnnfast) if not name.startswith("_")}
    submodules = {name for name in public if f"rnnfast.{name}" in sys.modules}
    assert public - submodules == set(rnnfast.__all__)


def test_importing_the_package_imports_nothing_heavy():
    heavy = ("matplotlib", "triton", "IPython", "safetensors", "tqdm")
    done = _run(
        "import sys, torch; before = set(sys.modules); import rnnfast; "
        f"print([name for name in {heavy} if name in set(sys.modules) - before])"
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
