"""Models in int8: that their answers are near to those in fp32, by token nearer, and then of each text for itself."""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from nlp_pipeline.steps.archive_model.quantisation import LARGE, quantise

# A token of large numbers beside others; tables of many rows and of few; weights that two products share.
GRAPH = """<ir_version: 8, opset_import: ["" : 20]>
tokens (int64[texts, tokens] ids, int64[texts, tokens] places) => (float[texts, tokens, 8] logits) {
    words = Gather<axis = 0>(vocabulary, ids)
    positions = Gather(places_table, places)
    x = Add(words, positions)
    y = MatMul(x, weights)
    z = Relu(y)
    logits = MatMul(z, weights)
}"""


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph in fp32."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(GRAPH)
    vocabulary = rng.normal(size=(LARGE, 8)).astype(np.float32)
    vocabulary[7] *= 100
    tables = {"vocabulary": vocabulary, "places_table": rng.normal(size=(4, 8)).astype(np.float32)}
    tables["weights"] = rng.normal(size=(8, 8)).astype(np.float32)
    tables["weights"][:, 3] = 0
    model.graph.initializer.extend(onnx.numpy_helper.from_array(table, name) for name, table in tables.items())
    path = tmp_path_factory.mktemp("quantisation") / "fp32.onnx"
    onnx.save(model, path)
    return path


def run(path: Path, ids: list[list[int]]) -> np.ndarray:
    places = [list(range(len(text))) for text in ids]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"ids": np.array(ids), "places": np.array(places)})[0]
    return result


def test_a_token_of_large_numbers_leaves_the_others_their_precision(full: Path, tmp_path: Path) -> None:
    ids, far = [[5, 6, 9], [1, 2, 3]], [[5, 6, 9], [7, 7, 7]]
    errors = {}
    for name in ("whole", "by_token"):
        quantise(full, tmp_path / name, by_token=name == "by_token")
        errors[name] = np.abs(run(tmp_path / name, far) - run(full, far))[0].max()
    assert errors["by_token"] < 0.3 < errors["whole"]
    # What stands beside a text has no influence on it.
    assert np.array_equal(run(tmp_path / "by_token", ids)[0], run(tmp_path / "by_token", far)[0])


def test_what_is_large_is_in_int8_and_stands_once(full: Path, tmp_path: Path) -> None:
    quantise(full, tmp_path / "by_token", by_token=True)
    model = onnx.load(tmp_path / "by_token")
    onnx.checker.check_model(model)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds["vocabulary_int8"] == kinds["weights_int8"] == onnx.TensorProto.INT8
    assert kinds["places_table"] == onnx.TensorProto.FLOAT and not {"vocabulary", "weights"} & kinds.keys()
    assert model.ir_version == 8 and [node.op_type for node in model.graph.node].count("MatMulIntegerToFloat") == 2
