"""Writing in one step: the old file or the new one, and nothing beside it."""

from pathlib import Path

import pytest

from rnnfast.backends.files import replacing


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_new_file_takes_the_place_of_the_old(tmp_path):
    target = tmp_path / "file"
    for content in ("one", "two"):
        with replacing(target) as partial:
            partial.write_text(content)
            assert target.exists() == (content == "two")
        assert target.read_text() == content
    assert names(tmp_path) == ["file"]


def test_a_reader_of_the_old_file_keeps_it(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with target.open() as reader:
        with replacing(target) as partial:
            partial.write_text("new")
        assert reader.read() == "old"
    assert target.read_text() == "new"


def test_a_failure_leaves_the_old_file_alone(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    writing = replacing(target)
    writing.__enter__().write_text("half")
    assert writing.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None) is False
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_an_error_of_the_system_gets_the_files_name(tmp_path):
    """A disk that gets full while a file is written: the system's error has no name in it."""
    target = tmp_path / "file"
    writing = replacing(target)
    writing.__enter__().write_text("half")
    full = OSError(28, "Full")
    with pytest.raises(OSError, match=rf"{target} could not be written \(Full\)") as caught:
        writing.__exit__(OSError, full, None)
    assert caught.value.errno == 28
    assert names(tmp_path) == []


def test_nothing_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file"):
        pass
    assert names(tmp_path) == []
