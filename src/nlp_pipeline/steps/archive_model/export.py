"""From a trained classifier to an ONNX graph that is fast on a CPU."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Operators that, of inputs with a token dimension, compute each token for itself.
BY_TOKEN = {"Add", "Sub", "Mul", "Div", "Gelu", "Erf", "Relu", "Tanh", "Sigmoid", "LayerNormalization"}


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Keeps libraries from warning of operators for images, and of optimisations that were not asked for."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(disabled)


def export_model(model_path: Path, target: Path) -> None:
    """Writes a classifier as an ONNX file in fp32 that is fast on a CPU and tells nothing of this machine.

    Batch and sequence length stay open. Opset 20, which has Gelu as one operator, and IR version 10 are what ONNX
    Runtime 1.19 reads, the last one for the Python 3.9 of KServe's stock TorchServe image. Attention is exported as
    written out ("eager"): the fused one is taken apart again by the exporter, with a test for rows that are masked
    altogether that costs a tenth of the time.
    """
    import onnx
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path, trust_remote_code=False)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        model_path, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    texts = ["a short text", "a text that is longer"]
    example = dict(tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False))
    with muted():
        torch.onnx.export(
            model,
            (),
            target,
            kwargs=example,
            input_names=list(example),
            output_names=["logits"],
            dynamic_shapes={name: dict.fromkeys([0, 1], torch.export.Dim.DYNAMIC) for name in example},
            opset_version=20,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    exported = onnx.load(target)
    graph = exported.graph
    # Each part says from which line of which file it came: that names this machine.
    for part in [exported, graph, *graph.node, *graph.value_info, *graph.input]:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    keep_first_token(exported)
    onnx.save(exported, target)


def keep_first_token(model: Any) -> bool:
    """Rewrites an `onnx.ModelProto` so that its last layer computes what the classifier reads: a text's first token.

    The answers stay the same; a sixth of a six-layer encoder's work goes. It returns whether it was rewritten: not
    where the classifier reads something else, such as a mean of all tokens.
    """
    import numpy
    import onnx

    graph = model.graph
    nodes, borders = _first_token_nodes(graph)
    if not nodes:
        return False
    graph.initializer.append(onnx.numpy_helper.from_array(numpy.array([0]), "first"))
    for node in nodes:
        node.input[:] = [f"{name}_first" if name in borders else name for name in node.input]
    for name in borders:
        gather = onnx.helper.make_node("Gather", [name, "first"], [f"{name}_first"], axis=1)
        producer = next(at for at, node in enumerate(graph.node) if name in node.output)
        graph.node.insert(producer + 1, gather)
    del graph.value_info[:]  # the shapes of what was between
    return True


def _first_token_nodes(graph: Any) -> tuple[list[Any], set[str]]:
    """Finds the nodes whose results a classifier needs for a text's first token only, and the tensors they read.

    A classifier reads the last layer's first token. All that lies between it and the last attention works on each
    token for itself. Both are empty where the classifier reads something else.
    """
    import onnx

    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    # Sizes that are open have names; others stay empty.
    shapes = {value.name: [size.dim_param for size in value.type.tensor_type.shape.dim] for value in graph.value_info}
    firsts = [node for node in graph.node if _takes_first_token(node, constants)]
    if len(firsts) != 1:
        return [], set()
    texts_and_tokens = shapes.get(firsts[0].input[0], [])[:2]
    if not all(texts_and_tokens):
        return [], set()
    whole = {name for name, shape in shapes.items() if len(shape) == 3 and shape[:2] == texts_and_tokens}
    # As the number of tokens is open, no dimension of a constant can be that of the tokens.
    known = whole | {name for name, value in constants.items() if value.ndim <= 2}
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.output[0])
    nodes = []
    first_only = {firsts[0].output[0]}  # tensors of which the first token is needed
    for node in reversed(graph.node):
        name, is_product = node.output[0], node.op_type == "MatMul" and node.input[1] not in whole
        works_by_token = (is_product or node.op_type in BY_TOKEN) and known >= {*node.input}
        if works_by_token and name in readers and readers[name] <= first_only:
            nodes.append(node)
            first_only.add(name)
    return nodes, {name for node in nodes for name in node.input if name in whole} - first_only


def _takes_first_token(node: Any, constants: dict[str, Any]) -> bool:
    """Says whether a node takes the first token of each text: a `Gather` of index 0 on axis 1."""
    is_on_tokens = node.op_type == "Gather" and [item.i for item in node.attribute] == [1]
    return is_on_tokens and node.input[1] in constants and constants[node.input[1]].ravel().tolist() == [0]
