"""Lines for consoles of any encoding."""

import io
import sys

import pytest

from rnnfast import RNNModelScratch, d2l, get_params, init_rnn_state, rnn
from rnnfast.book.console import show

TEXT = "时间 é \udcff!"


class Console(io.TextIOWrapper):
    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def printed(self) -> str:
        return self.buffer.getvalue().decode(self.encoding)


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "时间 é \\udcff!\n"),
        ("latin-1", "\\u65f6\\u95f4 é \\udcff!\n"),
        ("ascii", "\\u65f6\\u95f4 \\xe9 \\udcff!\n"),
    ],
)
def test_what_a_console_lacks_is_escaped(monkeypatch, encoding, shown):
    console = Console(encoding)
    monkeypatch.setattr(sys, "stdout", console)
    show(TEXT)
    assert console.printed() == shown


def test_what_a_console_has_stays(monkeypatch):
    console = Console("utf-8")
    monkeypatch.setattr(sys, "stdout", console)
    show("时间 é")
    assert console.printed() == "时间 é\n"


def test_train_ch8_ends_on_such_a_console(monkeypatch):
    """The continuations are Chinese, and "time traveller" is unknown to the text."""
    vocab = d2l.Vocab(list("时间旅行者"))
    batches = list(d2l.seq_data_iter_sequential(vocab[list("时间旅行者" * 20)], 2, 5))
    net = RNNModelScratch(len(vocab), 4, "cpu", get_params, init_rnn_state, rnn)
    console = Console("latin-1")
    monkeypatch.setattr(sys, "stdout", console)
    d2l.train_ch8(net, batches, vocab, 1, 1, "cpu")
    assert console.printed().count("<unk>\\u") == 2
    d2l.plt.close("all")


def test_a_console_that_takes_nothing_is_named(monkeypatch):
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(OSError, match=r"the standard output could not be written \(No space"):
        show("text")
