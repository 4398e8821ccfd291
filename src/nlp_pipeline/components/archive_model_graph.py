"""From a trained classifier to an ONNX graph that is fast on a CPU.

Hermetic helpers of `archive_model`, which inlines them as `additional_funcs`. They import what they need in their
bodies.
"""

from typing import Any


def export_onnx(model_path: str, target: str) -> None:
    """Exports a classifier to ONNX in fp32; batch and sequence length stay open.

    Opset 20, which has Gelu as one operator, and IR version 10 are what ONNX Runtime 1.19 reads, the last one for the
    Python 3.9 of KServe's stock TorchServe image. Attention is exported as written out ("eager"): the fused one is
    taken apart again by the exporter, with a test for rows that are masked altogether that costs a tenth of the time.

    Args:
        model_path: A folder as save_pretrained writes it.
        target: The ONNX file to write.
    """
    import inspect
    import logging
    import warnings

    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path, trust_remote_code=False)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        model_path, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    # Some tokenizers give token_type_ids to models that take none.
    known = inspect.signature(model.forward).parameters
    tokens = tokenizer(["a short text", "a text that is longer"], padding=True, return_tensors="pt")
    example = {name: tensor for name, tensor in tokens.items() if name in known}
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # of operators for images, and of optimisations not asked for
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (),
                target,
                kwargs=example,
                input_names=list(example),
                output_names=["logits"],
                dynamic_shapes={name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in example},
                opset_version=20,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        logging.disable(disabled)


def quantise_onnx(source: str, target: str) -> None:
    """Quantises a model to int8: weights per output channel, activations as they come.

    Args:
        source: An ONNX file in fp32.
        target: The ONNX file to write.
    """
    import logging

    from onnxruntime.quantization import QuantType, quantize_dynamic

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True)
    finally:
        logging.disable(disabled)


def forget_origins(path: str) -> None:
    """Removes the notes of an ONNX file of which line of which file each node came from: they name this machine."""
    import onnx

    graph = onnx.load(path)
    for part in [graph, graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.input]:
        del part.metadata_props[:]
    for node in graph.graph.node:
        node.doc_string = ""
    onnx.save(graph, path)


def graph_facts(graph: Any) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Returns a graph's constants as arrays, and the shapes of what lies between, a symbol for each open dimension.

    Args:
        graph: An `onnx.GraphProto`.
    """
    import onnx

    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    shapes = {
        one.name: [dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in graph.value_info
    }
    return constants, shapes


def takes_first_token(node: Any, constants: dict[str, Any]) -> bool:
    """Tells whether a node takes the first token of each text: a `Gather` of index 0 on axis 1."""
    axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
    index = constants.get(node.input[1]) if node.op_type == "Gather" else None
    return axis == 1 and index is not None and index.size == 1 and index.item() == 0


def works_by_token(node: Any, constants: dict[str, Any], whole: set[str]) -> bool:
    """Tells whether a node works on each token for itself.

    Args:
        node: An `onnx.NodeProto`.
        constants: The graph's constants.
        whole: The names of the tensors of shape (texts, tokens, any).
    """
    simple = {"Add", "Sub", "Mul", "Div", "Gelu", "Erf", "Relu", "Tanh", "Sigmoid"}
    if node.op_type == "MatMul":
        weights = constants.get(node.input[1])
        return node.input[0] in whole and weights is not None and weights.ndim == 2
    if node.op_type == "LayerNormalization":
        axis = next((one.i for one in node.attribute if one.name == "axis"), -1)
        return node.input[0] in whole and len(node.output) == 1 and axis in (-1, 2)
    small = {name for name, value in constants.items() if value.ndim <= 1}
    return node.op_type in simple and all(name in whole or name in small for name in node.input)


def first_token_nodes(graph: Any) -> tuple[list[Any], list[str]]:
    """Finds the operators whose results a classifier needs for a text's first token only.

    A classifier reads the last layer's first token. All that lies between it and the last attention works on each
    token for itself.

    Args:
        graph: An `onnx.GraphProto`, its nodes in order, with the shapes of what lies between.

    Returns:
        The nodes, and the names of the tensors that they read, of which the first token is enough. Both are empty
        where the classifier reads something else, such as a mean of all tokens.
    """
    constants, shapes = graph_facts(graph)
    firsts = [node for node in graph.node if takes_first_token(node, constants)]
    if len(firsts) != 1 or firsts[0].input[0] not in shapes:
        return [], []
    texts_and_tokens = shapes[firsts[0].input[0]][:2]
    whole = {name for name, shape in shapes.items() if len(shape) == 3 and shape[:2] == texts_and_tokens}
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.output[0])
    found: list[Any] = []
    made = {firsts[0].output[0]}  # what needs the first token only
    for node in reversed(graph.node):
        name = node.output[0]
        if name in readers and all(one in made for one in readers[name]) and works_by_token(node, constants, whole):
            found.append(node)
            made.add(name)
    return found, sorted({name for node in found for name in node.input if name in whole and name not in made})


def first_token_only(path: str) -> None:
    """Rewrites an ONNX file so that the last layer computes what the classifier reads of it: a text's first token.

    The answers stay the same; a sixth of a six-layer encoder's work goes. Files of classifiers that read more than the
    first token stay as they are.

    Args:
        path: The ONNX file.
    """
    import numpy
    import onnx

    model = onnx.load(path)
    graph = model.graph
    nodes, borders = first_token_nodes(graph)
    if not nodes:
        return
    graph.initializer.append(onnx.numpy_helper.from_array(numpy.array([0], dtype=numpy.int64), "first"))
    changed = {node.output[0] for node in nodes}
    for node in nodes:
        for at, name in enumerate(node.input):
            if name in borders:
                node.input[at] = f"{name}_first"
    for name in borders:
        gather = onnx.helper.make_node("Gather", [name, "first"], [f"{name}_first"], axis=1)
        at = next(at for at, node in enumerate(graph.node) if name in node.output)
        graph.node.insert(at + 1, gather)
    kept = [one for one in graph.value_info if one.name not in changed]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def onnx_model(model_path: str, target: str) -> None:
    """Writes a classifier as an ONNX file in fp32 that is fast on a CPU and tells nothing of this machine.

    Args:
        model_path: A folder as save_pretrained writes it.
        target: The ONNX file to write.
    """
    export_onnx(model_path, target)
    forget_origins(target)
    first_token_only(target)
