"""ONNX Runtime: forward with the RNN operator, generation as one Loop. It does not train."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from bench.cases import FIRST, GENERATED, Task

VERSIONS = {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}


def make(variant: str, task: Task, threads: int, device: str) -> OnnxRuntime:
    return OnnxRuntime(task, threads)


class OnnxRuntime:
    def __init__(self, task: Task, threads: int) -> None:
        X, Y = task.batches[0]
        self._H = len(task.params[1])
        self._forward = _session(_forward_graph(task), threads)
        self._forward_inputs = {
            "ids": np.ascontiguousarray(X.T),
            "targets": np.ascontiguousarray(Y.T).reshape(-1),
            "h": np.zeros((1, len(X), self._H), np.float32),
        }
        self._generate = _session(_generate_graph(task), threads)
        self._generate_inputs = {
            "first": np.full((1, 1), FIRST, np.int64),
            "h0": np.zeros((1, 1, self._H), np.float32),
        }

    def forward(self) -> float:
        return float(self._forward.run(["loss"], self._forward_inputs)[0])

    def generate(self) -> list[int]:
        ids: list[int] = self._generate.run(["sequence"], self._generate_inputs)[0].ravel().tolist()
        return ids


def _session(graph: Any, threads: int) -> Any:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _constants(task: Task) -> list[Any]:
    W_xh, W_hh, b_h, W_hq, b_q = task.params
    V, H = W_xh.shape
    values = {
        "one_hot": np.eye(V, dtype=np.float32),
        "W": W_xh.T[None],
        "R": W_hh.T[None],
        "B": np.concatenate([b_h, np.zeros_like(b_h)])[None],
        "W_hq": W_hq,
        "b_q": b_q,
        "rows": np.array([-1, H]),
    }
    return [_constant(name, value) for name, value in values.items()]


def _constant(name: str, value: Any) -> Any:
    return numpy_helper.from_array(np.array(value, order="C"), name)


def _logits(H: int) -> list[Any]:
    """Nodes from ids [T,B] and h [1,B,H] to logits [T*B,V] and h_last [1,B,H]."""
    return [
        helper.make_node("Gather", ["one_hot", "ids"], ["x"], axis=0),
        helper.make_node(
            "RNN",
            ["x", "W", "R", "B", "", "h"],
            ["y", "h_last"],
            hidden_size=H,
            activations=["Tanh"],
        ),
        helper.make_node("Reshape", ["y", "rows"], ["hs"]),
        helper.make_node("Gemm", ["hs", "W_hq", "b_q"], ["logits"]),
    ]


def _integers(name: str, *shape: int) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.INT64, shape)


def _floats(name: str, *shape: int) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _truth(name: str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.BOOL, [])


def _forward_graph(task: Task) -> Any:
    B, T = task.batches[0][0].shape
    H = len(task.params[1])
    loss = helper.make_node(
        "SoftmaxCrossEntropyLoss", ["logits", "targets"], ["loss"], reduction="mean"
    )
    inputs = [_integers("ids", T, B), _integers("targets", T * B), _floats("h", 1, B, H)]
    return helper.make_graph(
        [*_logits(H), loss], "forward", inputs, [_floats("loss")], _constants(task)
    )


def _generate_graph(task: Task) -> Any:
    H = len(task.params[1])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            *_logits(H),
            helper.make_node("ArgMax", ["logits"], ["next"], axis=1, keepdims=1),
            helper.make_node("Identity", ["next"], ["emitted"]),
        ],
        "body",
        [_integers("iteration"), _truth("go"), _integers("ids", 1, 1), _floats("h", 1, 1, H)],
        [
            _truth("go_on"),
            _integers("next", 1, 1),
            _floats("h_last", 1, 1, H),
            _integers("emitted", 1, 1),
        ],
    )
    loop = helper.make_node(
        "Loop", ["count", "true", "first", "h0"], ["last", "h_end", "sequence"], body=body
    )
    return helper.make_graph(
        [loop],
        "generate",
        [_integers("first", 1, 1), _floats("h0", 1, 1, H)],
        [_integers("sequence", GENERATED, 1, 1)],
        [*_constants(task), _constant("count", GENERATED), _constant("true", True)],
    )
