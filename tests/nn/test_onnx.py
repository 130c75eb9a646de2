"""torch.onnx.export gives ONNX's own RNN operator, checked in ONNX Runtime."""

import numpy as np
import pytest
import torch

import rnnfast
from rnnfast import nn

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

FORMS = {
    "one layer": {},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "relu without bias": {"nonlinearity": "relu", "bias": False},
    "learnt h0": {"learn_h0": True},
}


def _export(model, args, path, **kwargs):
    torch.onnx.export(model, args, path, verbose=False, **kwargs)
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = (each.name for each in session.get_inputs())
    return nodes, session.run(None, {n: np.asarray(a) for n, a in zip(inputs, args, strict=True)})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize("unbatched", [False, True])
def test_a_layer_is_a_node(form, with_hx, unbatched, tmp_path):
    layer = nn.RNN(3, 4, **FORMS[form]).eval()
    x, hx = torch.randn(5, 2, 3), torch.randn(layer._rows(), 5 if layer.batch_first else 2, 4)
    args = ((x[0], hx[:, 0]) if unbatched else (x, hx))[: 1 + with_hx]
    nodes, (y, h) = _export(layer, args, tmp_path / "rnn.onnx")
    assert nodes.count("RNN") == layer.num_layers
    want_y, want_h = layer(*args)
    torch.testing.assert_close(torch.from_numpy(y), want_y, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.from_numpy(h), want_h, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_dropout_between_layers_is_a_node_in_training_alone(training, tmp_path):
    layer = nn.RNN(3, 4, 2, dropout=0.5).train(training)
    nodes, _ = _export(layer, (torch.randn(5, 2, 3),), tmp_path / "rnn.onnx")
    assert nodes.count("Dropout") == training


def test_a_converted_model_of_any_length(tmp_path):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.out = torch.nn.RNN(3, 4, batch_first=True), torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.out(self.rnn(x)[0][:, -1])

    model = rnnfast.convert(Model()).eval()
    path = tmp_path / "model.onnx"
    shapes = {"x": {0: torch.export.Dim("B"), 1: torch.export.Dim("T")}}
    torch.onnx.export(model, (torch.randn(2, 5, 3),), path, dynamic_shapes=shapes, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((1, 1, 3), (4, 9, 3)):
        x = torch.randn(shape)
        (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(got), model(x), atol=1e-5, rtol=1e-5)


def test_the_older_exporter_gives_the_operator_too(tmp_path):
    layer, x = nn.RNN(3, 4).eval(), torch.randn(5, 2, 3)
    with pytest.warns(DeprecationWarning, match="legacy"):
        nodes, (y, _) = _export(layer, (x,), tmp_path / "rnn.onnx", dynamo=False)
    assert nodes.count("RNN") == 1
    torch.testing.assert_close(torch.from_numpy(y), layer(x)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "args", "word"),
    [
        ({"leak": 0.5}, (torch.zeros(5, 2, 3),), "leaky"),
        ({"noise": 0.5}, (torch.zeros(5, 2, 3),), "noise"),
        ({}, (torch.zeros(5, 2, 3), None, torch.zeros(5, 2, dtype=torch.bool)), "resets"),
        ({}, (torch.zeros(5, 2, dtype=torch.int64),), "ids"),
    ],
)
def test_what_onnx_does_not_have_is_refused(options, args, word, tmp_path):
    layer = nn.RNN(3, 4, **options).eval()
    with pytest.raises(torch.onnx.OnnxExporterError, match=word):
        torch.onnx.export(layer, args, tmp_path / "rnn.onnx", verbose=False)
