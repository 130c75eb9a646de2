"""Checkpoints come back bit by bit, and nothing that is not one of ours is taken for one."""

import dataclasses
import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rnnfast.program import checkpoint, network
from rnnfast.program.checkpoint import Checkpoint, CheckpointError, load, save
from rnnfast.program.settings import Settings

PARAM_NAMES = ("W_xh", "W_hh", "b_h", "W_hq", "b_q")  # of one layer

in_one_directory = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150
)


def example(
    vocab: tuple[str, ...] = ("<unk>", " ", "e"),
    H: int = 4,
    dtype: torch.dtype = torch.float32,
    perplexities: tuple[float, ...] = (9.5, 8.25),
) -> Checkpoint:
    V = len(vocab)
    generator = torch.Generator().manual_seed(V * H)
    shapes = ((V, H), (H, H), (H,), (H, V), (V,))
    return Checkpoint(
        settings=Settings(num_hiddens=H, lr=0.1, random_iter=True, seed=7),
        corpus="docs",
        sha1="00ff",
        vocab=vocab,
        params=tuple(torch.randn(s, generator=generator, dtype=dtype) for s in shapes),
        perplexities=perplexities,
        python_state=random.Random(3).getstate(),
        torch_state=generator.get_state(),
    )


def assert_same(got: Checkpoint, want: Checkpoint) -> None:
    for field in dataclasses.fields(Checkpoint):
        a, b = getattr(got, field.name), getattr(want, field.name)
        if field.name == "params":
            for name, x, y in zip(PARAM_NAMES, a, b, strict=True):
                assert same_bits(x, y), name
        elif field.name == "torch_state":
            assert torch.equal(a, b)
        else:
            assert a == b, field.name


def same_bits(a: Tensor, b: Tensor) -> bool:
    same_kind = a.dtype == b.dtype and a.shape == b.shape
    return same_kind and torch.equal(
        a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)
    )


tokens = st.text(min_size=1, max_size=3)  # also lone surrogates, quotes, NUL
finite = st.floats(allow_nan=False, allow_infinity=False)


@in_one_directory
@given(
    vocab=st.lists(tokens, min_size=1, max_size=6, unique=True).map(tuple),
    H=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    perplexities=st.lists(finite, max_size=4).map(tuple),
    gauss_next=st.none() | finite,
)
def test_round_trip(
    tmp_path: Path,
    vocab: tuple[str, ...],
    H: int,
    dtype: torch.dtype,
    perplexities: tuple[float, ...],
    gauss_next: float | None,
) -> None:
    version, internal, _ = random.Random(H).getstate()
    saved = dataclasses.replace(
        example(vocab, H, dtype, perplexities), python_state=(version, internal, gauss_next)
    )
    save(tmp_path / "c", saved)
    assert_same(load(tmp_path / "c"), saved)
    save(tmp_path / "again", load(tmp_path / "c"))
    assert (tmp_path / "again").read_bytes() == (tmp_path / "c").read_bytes()


def test_what_is_loaded_lies_in_memory_of_its_own(tmp_path: Path) -> None:
    """As torch allocates it: at other offsets a kernel may sum in another order."""
    save(tmp_path / "c", example())
    loaded = load(tmp_path / "c")
    for tensor in (*loaded.params, loaded.torch_state):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
        assert tensor.data_ptr() % 64 == 0


def test_round_trip_of_special_bits_and_strides(tmp_path: Path) -> None:
    saved = example()
    W_xh, W_hh, b_h, W_hq, b_q = saved.params
    b_h[:3] = torch.tensor([-0.0, torch.finfo(torch.float32).tiny / 4, 3e38])
    params = (W_xh.requires_grad_(), W_hh.T, b_h, W_hq[:, [2, 0, 1]].T.contiguous().T, b_q)
    saved = dataclasses.replace(saved, params=params)
    save(tmp_path / "c", saved)
    assert_same(load(tmp_path / "c"), saved)


def test_a_network_has_its_own_leaves() -> None:
    saved = example()
    params = network.parameters(network.build(saved.settings, 3, torch.device("cpu"), saved.params))
    assert all(p.requires_grad and p.is_leaf for p in params)
    before = saved.params[0].clone()
    with torch.no_grad():
        params[0] += 1
    assert same_bits(saved.params[0], before)


def test_random_generators_continue(tmp_path: Path) -> None:
    python, torch_generator = random.Random(5), torch.Generator().manual_seed(5)
    python.gauss(0, 1)
    torch.randn(3, generator=torch_generator)
    saved = dataclasses.replace(
        example(), python_state=python.getstate(), torch_state=torch_generator.get_state()
    )
    save(tmp_path / "c", saved)
    loaded = load(tmp_path / "c")
    python_again, torch_again = random.Random(), torch.Generator()
    python_again.setstate(loaded.python_state)
    torch_again.set_state(loaded.torch_state)
    assert [python_again.gauss(0, 1) for _ in range(3)] == [python.gauss(0, 1) for _ in range(3)]
    numbers = [torch.randn(5, generator=g) for g in (torch_generator, torch_again)]
    assert torch.equal(*numbers)


def refused(path: Path) -> str:
    """The one-line message of the refusal, which names the file and leaves it as it was."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert (path.read_bytes() if path.is_file() else None) == before
    return message


def test_cut_off_at_any_length(tmp_path: Path) -> None:
    path = tmp_path / "c"
    save(path, example())
    whole = path.read_bytes()
    for length in {0, 1, 7, 8, 9, *range(0, len(whole), 97), len(whole) - 1}:
        path.write_bytes(whole[:length])
        assert "damaged" in refused(path)
    path.write_bytes(whole + b"\0")
    assert "damaged" in refused(path)


@in_one_directory
@given(data=st.data())
def test_flipped_bytes(tmp_path: Path, data: st.DataObject) -> None:
    """Everywhere in the file: length, JSON, tensors. What the flip spares must be the same."""
    path = tmp_path / "c"
    saved = example()
    save(path, saved)
    raw = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    try:
        loaded = load(path)
    except CheckpointError:
        refused(path)
    else:
        assert_same(loaded, saved)  # the padding of the header


def test_every_tensor_is_under_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "c"
    save(path, example())
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    for name in (*PARAM_NAMES, "torch_random_state"):
        damaged = bytearray(raw)
        damaged[start + header[name]["data_offsets"][0]] ^= 1
        path.write_bytes(damaged)
        assert "checksum" in refused(path)


@pytest.mark.parametrize(
    "contents",
    [b"", b"hello", b"\x89PNG\r\n\x1a\n" * 20, pickle.dumps({"W_xh": [1.0]}), b"\xff" * 64],
    ids=["empty", "text", "png", "pickle", "huge header"],
)
def test_other_files(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "c").write_bytes(contents)
    assert "not a safetensors file" in refused(tmp_path / "c")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_foreign_safetensors(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    foreign = {"W_xh": torch.zeros(2, 2), "scalar": torch.tensor(1.0)}
    safetensors.torch.save_file(foreign, tmp_path / "c", metadata)
    assert "did not write it" in refused(tmp_path / "c")


def test_directory(tmp_path: Path) -> None:
    assert "is a directory" in refused(tmp_path)


def test_missing(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "c")


def test_file_as_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "cannot be read" in refused(tmp_path / "file" / "c")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "c", example())

    def deny(path: Path) -> bytes:  # permission bits do not stop root
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", deny)
    with pytest.raises(CheckpointError, match="Permission"):
        load(tmp_path / "c")


def rewrite(path: Path, described: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """A file with these contents and the right checksum."""
    text = json.dumps(described)
    metadata = {"rnnfast": f"{checkpoint._digest(text, tensors)} {text}"}
    safetensors.torch.save_file(tensors, path, metadata)


def contents(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safetensors.safe_open(path, "pt") as file:
        described = json.loads(file.metadata()["rnnfast"].partition(" ")[2])
        return described, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format is 2"),
        ({"vocab": ["<unk>", "a"]}, "W_xh has shape"),
        ({"vocab": ["<unk>", "a", "a"]}, "twice"),
        ({"vocab": ["<unk>", "a", 3]}, "list of strings"),
        ({"vocab": []}, "not empty"),
        ({"corpus": 3}, "corpus is 3"),
        ({"sha1": None}, "sha1 is None"),
        ({"perplexities": [1.0, float("nan")]}, "perplexities"),
        ({"perplexities": ["1"]}, "perplexities"),
        ({"python_state": [3, [1, 2], None]}, "random generators"),
        ({"python_state": [3]}, "unpack"),
        ({"settings": {"num_hiddens": 5}}, "for a vocabulary of 3 tokens and 5 hidden units"),
        ({"settings": {"hiddens": 4}}, "hiddens"),
        ({"settings": None}, "mapping"),
    ],
)
def test_inconsistent_description(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "c"
    save(path, example())
    described, tensors = contents(path)
    rewrite(path, described | change, tensors)
    assert message in refused(path)


@pytest.mark.parametrize("missing", ["format", "settings", "corpus", "sha1", "vocab"])
def test_missing_entry(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "c"
    save(path, example())
    described, tensors = contents(path)
    del described[missing]
    rewrite(path, described, tensors)
    assert f"no '{missing}'" in refused(path)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("W_hh", torch.zeros(4, 5), "W_hh has shape (4, 5), must be (4, 4)"),
        ("b_h", torch.zeros(4, 1), "b_h has shape"),
        ("W_hq", torch.full((4, 3), float("nan")), "W_hq contains NaN"),
        ("b_q", torch.full((3,), float("inf")), "b_q contains NaN or infinite"),
        ("b_q", torch.zeros(3, dtype=torch.float64), "b_q is torch.float64, must be torch.float32"),
        ("W_xh", torch.zeros(3, 4, dtype=torch.float16), "must be float32 or float64"),
        ("b_h", None, "no 'b_h'"),
        ("torch_random_state", torch.zeros(3, dtype=torch.uint8), "random generators"),
        ("torch_random_state", torch.zeros(3), "random generators"),
        ("torch_random_state", None, "no 'torch_random_state'"),
    ],
)
def test_inconsistent_tensors(
    tmp_path: Path, name: str, tensor: Tensor | None, message: str
) -> None:
    path = tmp_path / "c"
    save(path, example())
    described, tensors = contents(path)
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    rewrite(path, described, tensors)
    assert message in refused(path)


@pytest.mark.parametrize(
    "setting",
    [
        {"batch_size": 0},
        {"num_steps": 1.0},
        {"num_hiddens": True},
        {"epochs": -1},
        {"max_tokens": -1},
        {"seed": "0"},
        {"lr": float("nan")},
        {"lr": 1},
        {"clip": -1.0},
        {"clip": float("inf")},
        {"random_iter": 1},
    ],
    ids=str,
)
def test_impossible_settings(setting: dict[str, Any]) -> None:
    (name,) = setting
    with pytest.raises(ValueError, match=f"^{name} is "):
        Settings(**setting)


def test_nan_parameters_are_not_saved_either(tmp_path: Path) -> None:
    W_xh, *others = example().params
    W_xh[1, 1] = float("nan")
    with pytest.raises(ValueError, match="W_xh contains NaN"):
        dataclasses.replace(example(), params=(W_xh, *others))


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c"
    save(path, example())
    before = path.read_bytes()

    def disk_full(partial: Path, data: bytes) -> int:
        with partial.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save(path, example(perplexities=(1.0,)))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_save_into_no_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "none" / "c", example())
    assert list(tmp_path.iterdir()) == []
