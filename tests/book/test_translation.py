"""Sections 9.5 to 9.7: sentence pairs out of an archive, an encoder, a decoder, a translation."""

import hashlib
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from rnnfast import d2l
from rnnfast.book import texts

PAIRS = [
    ("Go away now.", "Va !"),
    ("Hi.", "Salut\u202f!"),
    ("Run!", "Cours\xa0!"),
    ("Hi you.", "Salut."),
]
LINES = "\n".join(f"{left}\t{right}" for left, right in PAIRS * 3)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The row 'fra-eng' of DATA_HUB, as a small archive on this machine."""
    path = tmp_path / "fra-eng.zip"
    with zipfile.ZipFile(path, "w") as written:
        written.writestr("fra-eng/fra.txt", LINES)
    sha1 = hashlib.sha1(path.read_bytes()).hexdigest()
    monkeypatch.setitem(texts.DATA_HUB, "fra-eng", (d2l.DATA_URL + path.name, sha1))
    monkeypatch.setenv("RNNFAST_DATA", str(tmp_path))
    return path


def test_the_text_comes_out_of_the_archive(archive):
    assert d2l.read_data_nmt() == LINES
    assert d2l.download_extract("fra-eng") == str(archive.parent / "fra-eng")
    assert d2l.download_extract("fra-eng", "sub") == str(archive.parent / "sub")


def test_a_tar_is_unpacked_and_another_file_refused(archive, monkeypatch):
    tar, other = archive.with_name("some.tar.gz"), archive.with_name("some.txt")
    archive.with_name("inner").write_text("inside")
    with tarfile.open(tar, "w:gz") as written:
        written.add(archive.with_name("inner"), "some/inner")
    other.write_text("text")
    for path in (tar, other):
        sha1 = hashlib.sha1(path.read_bytes()).hexdigest()
        monkeypatch.setitem(texts.DATA_HUB, path.name, (d2l.DATA_URL + path.name, sha1))
    assert Path(d2l.download_extract("some.tar.gz", "some"), "inner").read_text() == "inside"
    with pytest.raises(ValueError, match=r"name is 'some\.txt', whose file .* is no \.zip"):
        d2l.download_extract("some.txt")


def test_preprocessing_and_words():
    text = d2l.preprocess_nmt(LINES)
    assert text.splitlines()[:3] == ["go away now .\tva !", "hi .\tsalut !", "run !\tcours !"]
    source, target = d2l.tokenize_nmt(text + "\nno pair", 1)
    assert source == [["go", "away", "now", "."], ["hi", "."]]  # as in the book: lines 0 and 1
    assert target == [["va", "!"], ["salut", "!"]]
    assert len(d2l.tokenize_nmt(text + "\nno pair")[0]) == len(PAIRS) * 3


def test_lines_are_cut_or_filled_and_counted():
    assert d2l.truncate_pad([1, 2, 3], 2, 0) == [1, 2]
    assert d2l.truncate_pad([1, 2, 3], 5, 0) == [1, 2, 3, 0, 0]
    vocab = d2l.Vocab(["a", "b"], reserved_tokens=["<pad>", "<bos>", "<eos>"])
    ids, lengths = d2l.build_array_nmt([["a"], ["b", "a", "b", "a"]], vocab, 3)
    assert ids.tolist() == [vocab[["a", "<eos>", "<pad>"]], vocab[["b", "a", "b"]]]
    assert lengths.tolist() == [2, 3]


def test_minibatches_and_vocabularies(archive):
    data_iter, src_vocab, tgt_vocab = d2l.load_data_nmt(batch_size=5, num_steps=4)
    shapes = [[tuple(each.shape) for each in batch] for batch in data_iter]
    assert shapes == [[(5, 4), (5,), (5, 4), (5,)]] * 2 + [[(2, 4), (2,), (2, 4), (2,)]]
    assert src_vocab.idx_to_token[:4] == ["<unk>", "<pad>", "<bos>", "<eos>"]
    assert "salut" in tgt_vocab.token_to_idx


def test_the_histogram_has_both_lists():
    d2l.show_list_len_pair_hist(["left", "right"], "words", "count", [[1, 2], [1]], [[1], [1]])
    assert [text.get_text() for text in d2l.plt.gca().get_legend().get_texts()] == ["left", "right"]
    d2l.plt.close("all")


def test_sequence_mask_writes_in_place():
    X = torch.ones(2, 3, 2)
    assert d2l.sequence_mask(X, torch.tensor([1, 2]), value=-1) is X
    assert X[:, :, 0].tolist() == [[1, -1, -1], [1, 1, -1]]


def test_masked_loss_leaves_padding_out():
    """Equal logits: log V for each valid step, over T steps."""
    losses = d2l.MaskedSoftmaxCELoss()(
        d2l.ones(3, 4, 10), d2l.ones((3, 4), dtype=torch.long), torch.tensor([4, 2, 0])
    )
    torch.testing.assert_close(losses, torch.tensor([1, 0.5, 0]) * torch.tensor(10.0).log())


def test_the_base_classes_say_what_is_missing():
    with pytest.raises(NotImplementedError, match=r"Encoder.*must define forward\(\)"):
        d2l.Encoder()(torch.zeros(1))
    with pytest.raises(NotImplementedError, match=r"Decoder.*must define init_state\(\)"):
        d2l.Decoder().init_state(None)
    with pytest.raises(NotImplementedError, match=r"Decoder.*must define forward\(\)"):
        d2l.Decoder()(torch.zeros(1), None)


@pytest.mark.parametrize(
    ("pred", "label", "k", "score"),
    [
        ("va !", "va !", 2, 1.0),
        ("a b c d", "a b e d", 1, (3 / 4) ** 0.5),
        ("a b c d", "a b e d", 2, (3 / 4) ** 0.5 * (1 / 3) ** 0.25),
        ("a a a", "a b c", 1, (1 / 3) ** 0.5),  # one word of the label counts once
        ("a", "a b", 1, 0.36787944117144233),  # too short by half: exp(-1)
        ("a b", "a", 1, 0.5**0.5),  # too long: no factor
        ("a", "a", 2, 0.0),
    ],
)
def test_bleu(pred, label, k, score):
    assert d2l.bleu(pred, label, k) == pytest.approx(score, rel=1e-12)


class Decoder(d2l.Decoder):
    """Section 9.7's: a GRU over the embedded words and the encoder's last state."""

    def __init__(self, vocab_size: int, embed_size: int, num_hiddens: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embed_size)
        self.rnn = nn.GRU(embed_size + num_hiddens, num_hiddens)
        self.dense = nn.Linear(num_hiddens, vocab_size)
        self.attention_weights = "none"

    def init_state(self, enc_outputs, *args):
        return enc_outputs[1]

    def forward(self, X, state):
        X = self.embedding(X).permute(1, 0, 2)
        context = state[-1].repeat(X.shape[0], 1, 1)
        output, state = self.rnn(d2l.concat((X, context), 2), state)
        return self.dense(output).permute(1, 0, 2), state


def test_a_program_of_section_9_7_translates(archive, capsys):
    train_iter, src_vocab, tgt_vocab = d2l.load_data_nmt(batch_size=4, num_steps=6)
    encoder = d2l.Seq2SeqEncoder(len(src_vocab), 8, 16, 1)
    net = d2l.EncoderDecoder(encoder, Decoder(len(tgt_vocab), 8, 16))
    d2l.train_seq2seq(net, train_iter, 0.02, 40, tgt_vocab, d2l.try_gpu())
    line = capsys.readouterr().out.strip()
    assert line.startswith("loss 0.0")
    assert line.endswith(f" tokens/sec on {d2l.try_gpu()}")
    translation, attention = d2l.predict_seq2seq(
        net, "run !", src_vocab, tgt_vocab, 6, d2l.try_gpu(), save_attention_weights=True
    )
    assert translation == "cours !"
    assert attention == ["none"] * 3  # <eos> as well
    assert not net.training
    assert d2l.bleu(translation, "cours !", k=2) == 1
    d2l.plt.close("all")


def test_gradients_are_clipped_to_norm_1(archive):
    train_iter, src_vocab, tgt_vocab = d2l.load_data_nmt(batch_size=4, num_steps=6)
    encoder = d2l.Seq2SeqEncoder(len(src_vocab), 8, 16, 1)
    net = d2l.EncoderDecoder(encoder, Decoder(len(tgt_vocab), 8, 16))
    d2l.train_seq2seq(net, train_iter, 0.02, 1, tgt_vocab, "cpu")
    norm = torch.nn.utils.get_total_norm([p.grad for p in net.parameters()])
    assert norm.item() == pytest.approx(1, rel=1e-5)
    d2l.plt.close("all")


def test_training_on_nothing_is_named(archive):
    net = d2l.EncoderDecoder(d2l.Seq2SeqEncoder(9, 8, 16, 1), Decoder(9, 8, 16))
    with pytest.raises(ValueError, match="data_iter gives no minibatch"):
        d2l.train_seq2seq(net, [], 0.1, 1, d2l.Vocab(), "cpu")
    with pytest.raises(ValueError, match="num_epochs is 0, must be an integer of at"):
        d2l.train_seq2seq(net, [], 0.1, 0, d2l.Vocab(), "cpu")
