"""A model of fp32 in int8, with one scale for all activations of a text or, a little slower, one for each token."""

from pathlib import Path
from typing import Any

from nlp_pipeline.steps.archive_model.export import muted

# Rows of a table: smaller ones, such as that of the positions, would save little and cost most of the error.
LARGE = 1000


def quantise(source: Path, target: Path, *, by_token: bool) -> None:
    """Writes an ONNX model of fp32 in int8: weights per output channel, activations as they come."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if by_token:
        model = onnx.load(source)
        quantise_by_token(model)
        onnx.save(model, target)
        return
    with muted():
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True)


def quantise_by_token(model: Any) -> None:
    """Puts an `onnx.ModelProto`'s products in int8 by a scale for each token, its large tables by one for each row.

    A few tokens have activations far beyond the others', which a scale in common would leave with few of its steps.
    Answers differ from those in fp32 a third as often so (docs/performance.md).
    """
    import numpy
    import onnx

    graph = model.graph
    floats = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    matrices = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in floats if len(tensor.dims) == 2}
    tables = {name for name, matrix in matrices.items() if len(matrix) >= LARGE}
    constants: dict[str, Any] = {
        "int8_step": numpy.array(1 / 127, numpy.float32),
        "int8_zero": numpy.array(128, numpy.uint8),  # a CPU multiplies unsigned activations with signed weights
        "int8_least": numpy.array(1e-9, numpy.float32),
        "int8_last": numpy.array([-1]),
    }
    nodes: list[Any] = []
    for node in graph.node:
        name, axis = "", 0
        if node.op_type == "MatMul" and node.input[1] in matrices:
            tokens, name = node.input
            if f"{tokens}_int8" not in {output for other in nodes for output in other.output}:
                nodes += _scale_tokens(tokens)
            nodes += _multiply(tokens, name, node.output[0])
        elif node.op_type == "Gather" and node.input[0] in tables and not any(item.i for item in node.attribute):
            name, axis = node.input[0], 1
            nodes += _look_up(name, node.input[1], node.output[0])
        else:
            nodes.append(node)
        if name:
            scales = numpy.maximum(numpy.abs(matrices[name]).max(axis, keepdims=True) / 127, 1e-9)
            constants[f"{name}_int8"] = numpy.rint(matrices[name] / scales).astype(numpy.int8)
            constants[f"{name}_scales"] = (scales if axis else scales[0]).astype(numpy.float32)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    tensors += [onnx.numpy_helper.from_array(value, name) for name, value in constants.items() if name in used]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))


def _scale_tokens(tokens: str) -> list[Any]:
    """Returns the nodes that divide each token by its largest activation, and put it in 8 bits."""
    from onnx.helper import make_node

    return [
        make_node("Abs", [tokens], [f"{tokens}_sizes"]),
        make_node("ReduceMax", [f"{tokens}_sizes", "int8_last"], [f"{tokens}_largest"]),
        make_node("Max", [f"{tokens}_largest", "int8_least"], [f"{tokens}_scale"]),
        make_node("Div", [tokens, f"{tokens}_scale"], [f"{tokens}_shares"]),
        make_node("QuantizeLinear", [f"{tokens}_shares", "int8_step", "int8_zero"], [f"{tokens}_int8"]),
    ]


def _multiply(tokens: str, weights: str, result: str) -> list[Any]:
    """Returns the nodes that multiply scaled tokens with weights, and by the tokens' scales again."""
    from onnx.helper import make_node

    factors = [f"{tokens}_int8", f"{weights}_int8", "int8_step", f"{weights}_scales", "int8_zero"]
    return [
        make_node("MatMulIntegerToFloat", factors, [f"{result}_shares"], domain="com.microsoft"),
        make_node("Mul", [f"{result}_shares", f"{tokens}_scale"], [result]),
    ]


def _look_up(table: str, rows: str, result: str) -> list[Any]:
    """Returns the nodes that take rows of a table, and multiply them by their scales."""
    import onnx

    make_node = onnx.helper.make_node
    return [
        make_node("Gather", [f"{table}_int8", rows], [f"{result}_steps"]),
        make_node("Cast", [f"{result}_steps"], [f"{result}_floats"], to=onnx.TensorProto.FLOAT),
        make_node("Gather", [f"{table}_scales", rows], [f"{result}_scales"]),
        make_node("Mul", [f"{result}_floats", f"{result}_scales"], [result]),
    ]
