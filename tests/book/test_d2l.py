"""The names that programs of chapters 8 and 9 take from d2l, and what importing them costs."""

import inspect
import subprocess
import sys

import pytest
import torch

from rnnfast import d2l

# What the book's own programs for PyTorch take from d2l 0.17, section by section, and what these
# sections give to d2l: gathered from the text of all of them.
SECTIONS = {
    "8.1 sequence models": "arange evaluate_loss float32 load_array normal numpy plot reshape sin "
    "zeros",
    "8.2 text preprocessing": "DATA_HUB DATA_URL Vocab count_corpus download "
    "load_corpus_time_machine read_time_machine tokenize",
    "8.3 language models": "SeqDataLoader Vocab load_corpus_time_machine load_data_time_machine "
    "plot read_time_machine reshape seq_data_iter_random seq_data_iter_sequential tensor tokenize",
    "8.4 recurrent networks": "concat matmul normal",
    "8.5 from scratch": "Accumulator Animator RNNModelScratch Timer arange grad_clipping "
    "load_data_time_machine predict_ch8 reshape sgd size tensor train_ch8 train_epoch_ch8 try_gpu "
    "zeros",
    "8.6 concise": "RNNModel load_data_time_machine predict_ch8 train_ch8 try_gpu",
    "9.1 to 9.4 GRU, LSTM, deep, bidirectional": "RNNModel RNNModelScratch load_data_time_machine "
    "train_ch8 try_gpu zeros",
    "9.5 translation": "DATA_HUB DATA_URL Vocab astype build_array_nmt download_extract int32 "
    "load_array load_data_nmt plt preprocess_nmt read_data_nmt reduce_sum set_figsize "
    "show_list_len_pair_hist tensor tokenize_nmt truncate_pad",
    "9.6 encoder and decoder": "Decoder Encoder EncoderDecoder",
    "9.7 sequence to sequence": "Accumulator Animator Decoder Encoder EncoderDecoder "
    "MaskedSoftmaxCELoss Seq2SeqEncoder Timer bleu concat grad_clipping load_data_nmt ones "
    "predict_seq2seq sequence_mask train_seq2seq truncate_pad try_gpu zeros",
}

# name -> parameters, as in d2l 0.17.6; trailing ones of ours have defaults
SIGNATURES = {
    "Accumulator": "n",
    "Animator": "xlabel ylabel legend xlim ylim xscale yscale fmts nrows ncols figsize",
    "RNNModel": "rnn_layer vocab_size kwargs",
    "RNNModelScratch": "vocab_size num_hiddens device get_params init_state forward_fn",
    "SeqDataLoader": "batch_size num_steps use_random_iter max_tokens",
    "Timer": "",
    "Vocab": "tokens min_freq reserved_tokens",
    "count_corpus": "tokens",
    "EncoderDecoder": "encoder decoder kwargs",
    "Seq2SeqEncoder": "vocab_size embed_size num_hiddens num_layers dropout kwargs",
    "bleu": "pred_seq label_seq k",
    "build_array_nmt": "lines vocab num_steps",
    "download": "name cache_dir",
    "download_extract": "name folder",
    "evaluate_loss": "net data_iter loss",
    "grad_clipping": "net theta",
    "load_array": "data_arrays batch_size is_train",
    "load_corpus_time_machine": "max_tokens",
    "load_data_nmt": "batch_size num_steps num_examples",
    "load_data_time_machine": "batch_size num_steps use_random_iter max_tokens",
    "plot": "X Y xlabel ylabel legend xlim ylim xscale yscale fmts figsize axes",
    "predict_ch8": "prefix num_preds net vocab device",
    "predict_seq2seq": "net src_sentence src_vocab tgt_vocab num_steps device "
    "save_attention_weights",
    "preprocess_nmt": "text",
    "read_data_nmt": "",
    "read_time_machine": "",
    "seq_data_iter_random": "corpus batch_size num_steps",
    "seq_data_iter_sequential": "corpus batch_size num_steps",
    "sequence_mask": "X valid_len value",
    "set_axes": "axes xlabel ylabel xlim ylim xscale yscale legend",
    "set_figsize": "figsize",
    "sgd": "params lr batch_size",
    "show_list_len_pair_hist": "legend xlabel ylabel xlist ylist",
    "tokenize": "lines token",
    "tokenize_nmt": "text num_examples",
    "train_ch8": "net train_iter vocab lr num_epochs device use_random_iter",
    "train_epoch_ch8": "net train_iter loss updater device use_random_iter",
    "train_seq2seq": "net data_iter lr num_epochs tgt_vocab device",
    "truncate_pad": "line num_steps padding_token",
    "try_all_gpus": "",
    "try_gpu": "i",
    "use_svg_display": "",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_names_and_parameters_of_d2l(name):
    parameters = list(inspect.signature(getattr(d2l, name)).parameters.values())
    wanted = SIGNATURES[name].split()
    assert [parameter.name for parameter in parameters][: len(wanted)] == wanted
    assert all(p.default is not inspect.Parameter.empty for p in parameters[len(wanted) :])


@pytest.mark.parametrize("section", SECTIONS)
def test_every_name_that_a_section_takes_is_there(section):
    names = SECTIONS[section].split()
    assert set(names) <= set(d2l.__all__)
    assert all(getattr(d2l, name) is not None for name in names)


def test_begin_state_keeps_the_two_orders_of_the_book():
    scratch = inspect.signature(d2l.RNNModelScratch.begin_state)
    assert list(scratch.parameters) == ["self", "batch_size", "device"]
    concise = inspect.signature(d2l.RNNModel.begin_state)
    assert list(concise.parameters) == ["self", "device", "batch_size"]


def test_all_is_all():
    assert set(SIGNATURES) < set(d2l.__all__)
    for name in d2l.__all__:
        assert getattr(d2l, name) is not None
    assert d2l.DATA_HUB["time_machine"] == (
        d2l.DATA_URL + "timemachine.txt",
        "090b5e7e70c295757f55df93cb0a180b9691891a",
    )


def test_plt_is_pyplot():
    from matplotlib import pyplot

    assert d2l.plt is pyplot


def test_the_aliases_of_torchs_functions():
    """As the book calls them: the name of a method takes the tensor and the method's arguments."""
    x = d2l.tensor([[1, 2, 3]])
    assert d2l.reshape(x, (3, 1)).shape == d2l.reshape(x, 3, 1).shape == (3, 1)
    assert d2l.reshape(x, -1).shape == (3,)
    assert d2l.transpose(x).shape == (3, 1)
    assert d2l.size(x) == 3
    assert d2l.astype(x, d2l.float32).dtype == torch.float32
    assert int(d2l.reduce_sum(x)) == int(d2l.reduce_sum(x, 1)) == 6
    assert int(d2l.argmax(x, axis=1)) == 2
    assert d2l.to(x, "cpu").device == x.device
    assert d2l.numpy(torch.ones(2, requires_grad=True)).tolist() == [1, 1]
    assert d2l.normal(0, 1, (3, 4)).shape == (3, 4)
    assert d2l.concat((x, x), 1).tolist() == [[1, 2, 3, 1, 2, 3]]
    assert torch.equal(d2l.zeros(2, device="cpu"), torch.zeros(2))


@pytest.mark.parametrize(
    ("count", "first", "third", "all_of_them"),
    [(0, "cpu", "cpu", ["cpu"]), (2, "cuda:0", "cpu", ["cuda:0", "cuda:1"])],
)
def test_try_gpu(monkeypatch, count, first, third, all_of_them):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert d2l.try_gpu() == torch.device(first)
    assert d2l.try_gpu(2) == torch.device(third)
    assert d2l.try_all_gpus() == [torch.device(name) for name in all_of_them]


def test_another_chapters_name_is_explained():
    with pytest.raises(AttributeError, match=r"no 'linreg'.*chapters 8 and 9.*from d2l import"):
        d2l.linreg  # noqa: B018 (the look-up is the test)
    assert not hasattr(d2l, "linreg")


def test_the_import_brings_nothing_heavy():
    """torch's own imports aside, ours stay below 0.2 s only if none of these is among them."""
    program = (
        "import sys, torch; had = set(sys.modules); from rnnfast import d2l\n"
        "heavy = {'matplotlib', 'IPython', 'urllib.request', 'tqdm', 'safetensors',"
        " 'torch._dynamo', 'pydoc_data.topics'}\n"
        "print(sorted(heavy & (set(sys.modules) - had)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_program_of_chapter_8_runs(capsys):
    """Its own forward function in d2l's model, trained and drawn by d2l's names alone."""
    text = "the quick brown fox jumps over the lazy dog " * 4
    vocab = d2l.Vocab(list(text))

    def get_params(V, H, device):
        shapes = ((V, H), (H, H), (H,), (H, V), (V,))
        return [torch.randn(shape, device=device).mul_(0.1).requires_grad_() for shape in shapes]

    def relu_rnn(inputs, state, params):
        W_xh, W_hh, b_h, W_hq, b_q = params
        (H,), outputs = state, []
        for X in inputs:
            H = torch.relu(X @ W_xh + H @ W_hh + b_h)
            outputs.append(H @ W_hq + b_q)
        return torch.cat(outputs), (H,)

    def init_state(batch_size, H, device):
        return (d2l.zeros((batch_size, H), device=device),)

    batches = list(d2l.seq_data_iter_sequential(vocab[list(text)], 4, 5))
    net = d2l.RNNModelScratch(len(vocab), 8, d2l.try_gpu(), get_params, init_state, relu_rnn)
    d2l.train_ch8(net, batches, vocab, 1, 20, d2l.try_gpu())
    lines = capsys.readouterr().out.splitlines()
    assert [len(line) for line in lines[:2]] == [64, 64]
    assert lines[2].startswith("perplexity ")
    assert lines[2].endswith(f" tokens/sec on {d2l.try_gpu()}")
    assert lines[3].startswith("time traveller")
    assert lines[4].startswith("traveller")
    assert len(d2l.plt.gca().lines[0].get_xdata()) == 2
    d2l.plt.close("all")
