"""The exported graph: that its last layer computes the first token only, where a classifier reads that, alters nothing.

Held on tiny classifiers of many architectures, with weights made at random, and on small graphs.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from nlp_pipeline.serving.handler import TextClassificationHandler
from nlp_pipeline.steps.archive_model import export
from nlp_pipeline.steps.archive_model.export import export_model, keep_first_token
from nlp_pipeline.steps.archive_model.packing import pack_model
from nlp_pipeline.steps.evaluate_model.prediction import predict
from tests.serving.conftest import made_release, make_context
from tests.steps.archive_model.architectures import configurations, make_classifier


def random_batch(rng: np.random.Generator, texts: int, tokens: int) -> dict[str, Any]:
    """Returns a batch of texts of random tokens and lengths, the first of them with all tokens."""
    lengths = rng.integers(1, tokens + 1, (texts, 1))
    lengths[0] = tokens
    mask = (np.arange(tokens) < lengths).astype(np.int64)
    ids, types = rng.integers(4, 64, (texts, tokens)), rng.integers(0, 2, (texts, tokens))
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": types * mask}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*configurations()} - {"bert"}))  # as which the tests' own encoder is exported
def test_architectures_give_the_same_in_onnx(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import torch
    import transformers

    folder, whole, first = tmp_path / "model", tmp_path / "whole.onnx", tmp_path / "first.onnx"
    make_classifier(name).save_pretrained(folder)
    # All that any of them takes: each takes what it knows.
    names = ["input_ids", "token_type_ids", "attention_mask"]
    transformers.AutoTokenizer.from_pretrained(encoder, model_input_names=names).save_pretrained(folder)

    def save_whole_too(exported: onnx.ModelProto) -> bool:
        onnx.save(exported, whole)
        return keep_first_token(exported)

    monkeypatch.setattr(export, "keep_first_token", save_whole_too)
    export_model(folder, first)
    assert (first.read_bytes() == whole.read_bytes()) == (name == "modernbert, mean")  # which reads more than the first

    handler = TextClassificationHandler()
    sessions = [onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (whole, first)]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    rng = np.random.default_rng(0)
    for texts, tokens in ((1, 1), (1, 2), (1, 60), (2, 5), (3, 17), (7, 40)):
        batch = random_batch(rng, texts, tokens)
        columns = {value.name: batch[value.name] for value in sessions[0].get_inputs()}
        assert set(columns) == {"input_ids", "attention_mask"}
        with torch.inference_mode():
            expected = model(**{key: torch.from_numpy(value) for key, value in columns.items()}).logits.numpy()
        before, after = (session.run(["logits"], columns)[0] for session in sessions)
        assert np.abs(after - before).max() < 1e-4
        assert np.abs(after - expected).max() < 1e-4

    pack_model(folder, first, tmp_path / "packed", "fp32", max_length=60)
    handler.initialize(make_context(1, tmp_path / "packed"))
    asked = ["superb", "the film was awful and " * 9, "a story it is with music of long scene"]
    found = handler.probabilities(asked, handler.together)
    assert np.abs(found - predict(str(folder), asked, 60)).max() < 1e-5
    assert np.ptp(found, axis=0).max() > 3e-4  # or the texts do not matter


def test_what_is_archived_is_small_and_old_and_computes_the_first_token_only(model: Path) -> None:
    sizes = []
    for precision in ("int8", "fp32"):
        with zipfile.ZipFile(next(made_release(model, precision).glob("model-store/*.mar"))) as archive:
            content = archive.read("model.onnx")
        sizes.append(len(content))
        assert b"site-packages" not in content and b".py" not in content
        exported = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
        # ONNX Runtime 1.19, the last for Python 3.9, reads no more.
        assert exported.ir_version <= 10
        assert {opset.domain: opset.version for opset in exported.opset_import}[""] <= 21
        shapes = {value.name: value.type.tensor_type.shape.dim for value in exported.graph.value_info}
        norms = [shapes[node.output[0]] for node in exported.graph.node if node.op_type == "LayerNormalization"]
        # After the embeddings, and in two layers after the attention and after the rest.
        assert [norm[1].dim_value for norm in norms] == [0, 0, 0, 1, 1]
    assert sizes[0] < 0.5 * sizes[1]


# Small graphs: of texts x tokens x 4 numbers, by steps that take one or two former results {a} and {b}.

BY_TOKEN = {
    "product": "{o} = MatMul({a}, weights)",
    "bias": "{o} = Add(bias, {a})",
    "number": "{o} = Div({a}, number)",
    **{name: f"{{o}} = {name}({{a}}, {{b}})" for name in ("Add", "Mul", "Sub")},
    **{name: f"{{o}} = {name}({{a}})" for name in ("Gelu", "Erf", "Relu", "Tanh", "Sigmoid")},
    "norm": "{o} = LayerNormalization<axis = -1>({a}, bias, bias)",
}
ACROSS_TOKENS = {
    "sum so far": "{o} = CumSum({a}, one)",
    "softmax": "{o} = Softmax<axis = 1>({a})",
    "mean": "{o}m = ReduceMean({b}, ones) {o} = Add({a}, {o}m)",
    "attention": "{o}t = Transpose<perm = [0, 2, 1]>({b}) {o}s = MatMul({a}, {o}t) {o}p = Softmax({o}s) "
    "{o} = MatMul({o}p, {b})",
}
# For texts of four tokens: then nothing in a shape tells tokens from numbers.
OF_FOUR_TOKENS = {
    "positions": "{o} = Add({a}, weights)",
    "product with itself": "{o} = MatMul({a}, {b})",
    "product from the left": "{o} = MatMul(weights, {a})",
    "norm of all": "{o} = LayerNormalization<axis = 1>({a}, weights, weights)",
    "turned": "{o} = Transpose<perm = [0, 2, 1]>({a})",
}
ENDS = {
    "first": "f = Gather<axis = 1>(y, zero) logits = MatMul(f, head)",
    "kept": "k = Gather<axis = 1>(y, zeros) f = Squeeze(k, ones) logits = MatMul(f, head)",
    "mean beside": "f = Gather<axis = 1>(y, zero) m = ReduceMean<keepdims = 0>({b}, ones) "
    "s = Add(f, m) logits = MatMul(s, head)",
}
OTHER_ENDS = {
    "second": "f = Gather<axis = 1>(y, one) logits = MatMul(f, head)",
    "first and second": "f = Gather<axis = 1>(y, firsts) m = ReduceMean<keepdims = 0>(f, ones) "
    "logits = MatMul(m, head)",
    "first text": "f = Gather<axis = 0>(y, zero) logits = MatMul(f, head)",
    "first number": "f = Gather<axis = 2>(y, zero) logits = Tanh(f)",
    "mean": "f = ReduceMean<keepdims = 0>(y, ones) logits = MatMul(f, head)",
    "mean and first": "f = Gather<axis = 1>(y, zero) m = ReduceMean<keepdims = 0>(y, ones) s = Add(f, m) "
    "logits = MatMul(s, head)",
    "first and second, each": "f = Gather<axis = 1>(y, zero) g = Gather<axis = 1>(y, one) s = Add(f, g) "
    "logits = MatMul(s, head)",
}
STEPS = BY_TOKEN | ACROSS_TOKENS | OF_FOUR_TOKENS


def make_graph(steps: list[str], end: str, tokens: int | str, outputs: tuple[str, ...] = ()) -> onnx.ModelProto:
    """Returns a graph in float64: inputs `x`, steps with results t0, t1 ... the last of which is `y`, and an end."""
    outside = "".join(f", double[B, {tokens}, 4] {name}" for name in outputs)
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> classifier (double[B, {tokens}, 4] x) '
        f"=> (double[B, C] logits{outside}) {{ {' '.join(steps)} {end} }}"
    )
    rng = np.random.default_rng(0)
    constants = {
        "weights": rng.normal(size=(4, 4)),
        "bias": rng.normal(size=4),
        "number": np.array(1.5),
        "head": rng.normal(size=(4, 2)),
        "zero": np.array(0),
        "zeros": np.array([0]),
        "one": np.array(1),
        "ones": np.array([1]),
        "firsts": np.array([0, 1]),
    }
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def require_the_same(model: onnx.ModelProto, tokens: int | str) -> onnx.ModelProto | None:
    """Makes sure that a graph gives the same when it was rewritten; returns it where it was."""
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    changed = keep_first_token(rewritten)
    assert changed == (rewritten.SerializeToString() != model.SerializeToString())
    rng = np.random.default_rng(1)
    for length in (2, 3, 6) if tokens == "T" else (4,):
        texts = rng.normal(size=(3, length, 4))
        with np.errstate(all="ignore"):
            expected = ReferenceEvaluator(model).run(None, {"x": texts})
            found = ReferenceEvaluator(rewritten).run(None, {"x": texts})
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)
    return rewritten if changed else None


CASES = [*((step, "first") for step in STEPS), ("Add", "kept"), ("Add", "mean beside")]


@pytest.mark.parametrize(("step", "end"), CASES)
def test_the_steps_before_the_first_token(step: str, end: str) -> None:
    tokens = 4 if step in OF_FOUR_TOKENS else "T"
    steps = ["t0 = MatMul(x, weights) t1 = CumSum(t0, one)", STEPS[step].format(a="t0", b="t1", o="y")]
    rewritten = require_the_same(make_graph(steps, ENDS[end].format(b="t0"), tokens), tokens)
    assert (rewritten is not None) == (step in BY_TOKEN)
    if rewritten is not None:
        shapes = {
            one.name: one.type.tensor_type.shape
            for one in onnx.shape_inference.infer_shapes(rewritten).graph.value_info
        }
        assert [shapes[name].dim[1].dim_value for name in ("t0", "t1", "y")] == [0, 0, 1]


@pytest.mark.parametrize("end", OTHER_ENDS)
def test_other_ends_leave_the_graph_as_it_is(end: str) -> None:
    steps = ["t0 = MatMul(x, weights)", "t1 = Tanh(t0)", "y = Add(t0, t1)"]
    assert not require_the_same(make_graph(steps, OTHER_ENDS[end], "T"), "T")
