"""`rnnfast bench` compares with the textbook's loop and prints a table."""

import pytest

from rnnfast.program.cli import main


def test_the_table_has_a_row_per_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--seconds", "0.1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("hiddens"))
    assert [line.split()[0] for line in lines[start + 1 :]] == ["64", "256", "512"]


def test_the_time_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--seconds", "0"])
    assert "--seconds: must be above 0" in capsys.readouterr().err
