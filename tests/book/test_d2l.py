"""The names that programs of chapters 8 and 9 take from d2l, and what importing them costs."""

import inspect
import subprocess
import sys

import pytest
import torch

from rnnfast import d2l

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
    "download": "name cache_dir",
    "grad_clipping": "net theta",
    "load_corpus_time_machine": "max_tokens",
    "load_data_time_machine": "batch_size num_steps use_random_iter max_tokens",
    "plot": "X Y xlabel ylabel legend xlim ylim xscale yscale fmts figsize axes",
    "predict_ch8": "prefix num_preds net vocab device",
    "read_time_machine": "",
    "seq_data_iter_random": "corpus batch_size num_steps",
    "seq_data_iter_sequential": "corpus batch_size num_steps",
    "set_axes": "axes xlabel ylabel xlim ylim xscale yscale legend",
    "set_figsize": "figsize",
    "sgd": "params lr batch_size",
    "tokenize": "lines token",
    "train_ch8": "net train_iter vocab lr num_epochs device use_random_iter",
    "train_epoch_ch8": "net train_iter loss updater device use_random_iter",
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
    x = d2l.tensor([[1, 2, 3]])
    assert d2l.reshape(x, (3, 1)).shape == (3, 1)
    assert d2l.size(x) == 3
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
    with pytest.raises(AttributeError, match=r"no 'linreg'.*chapter 8.*from d2l import torch"):
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
