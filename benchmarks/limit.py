"""How much of what this machine can do is served: of the model with no server, and of its int8 matrix products alone.

The products are those that a text of the full length takes, with the shapes that ONNX Runtime's profile names, each
with weights of its own. They run on all processors at once, a text on each.
"""

import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import FEWEST, OURS, Figure, alternate
from benchmarks.model import load_classifier, release, texts_of_length
from benchmarks.peers import TEXTS, write_requests
from benchmarks.peers.servers import contenders
from benchmarks.processes import run_module, tell
from benchmarks.profile import profiled_calls
from benchmarks.servers import Running

BATCH = 8
OF_PROCESS = 0.9  # of the rate with no server, at least
WARM_UP = 1.0
IN_PROCESS = "in process"
PRODUCTS = {"onnxruntime": "int8 products alone, onnxruntime", "torch": "int8 products alone, torch"}

Shape = tuple[int, int, int]  # rows, inner, columns


def matrix_products(call: list[dict[str, Any]]) -> tuple[Counter[Shape], int]:
    """Returns the int8 products in a call of the model, as profiled, and the multiplications of those in float."""
    integer: Counter[Shape] = Counter()
    multiplications = 0
    for event in call:
        name, shapes = event["args"]["op_name"], event["args"]["input_type_shape"]
        if "MatMul" in name:
            (left,), (product,) = shapes[0].values(), event["args"]["output_type_shape"][0].values()
            if "Integer" in name or "Quantize" in name:
                integer[math.prod(left[:-1]), left[-1], product[-1]] += 1
            else:
                multiplications += math.prod(product) * left[-1]
    return integer, multiplications


def onnxruntime_products(products: Counter[Shape]) -> Callable[[], Any]:
    """Returns a call that computes the products on one processor, with ONNX Runtime."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    rng = np.random.default_rng(1)
    inputs, outputs, nodes, weights = {}, [], [], []
    for number, (rows, inner, columns) in enumerate(products.elements()):
        left = f"input_{rows}_{inner}"
        inputs[left] = rng.integers(0, 255, (rows, inner), np.uint8)
        right = rng.integers(-127, 127, (inner, columns), np.int8)
        weights.append(onnx.numpy_helper.from_array(right, f"weights_{number}"))
        nodes.append(helper.make_node("MatMulInteger", [left, f"weights_{number}"], [f"output_{number}"]))
        outputs.append(helper.make_tensor_value_info(f"output_{number}", TensorProto.INT32, [rows, columns]))
    described = [helper.make_tensor_value_info(name, TensorProto.UINT8, each.shape) for name, each in inputs.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "products", described, outputs, weights),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return partial(session.run, None, inputs)


def torch_products(products: Counter[Shape]) -> Callable[[], Any]:
    """Returns a call that computes the products on one processor, with torch's own int8 product."""
    import torch

    torch.set_num_threads(1)
    operands = [
        (
            torch.randint(-127, 127, (rows, inner), dtype=torch.int8),
            torch.randint(-127, 127, (inner, columns), dtype=torch.int8),
        )
        for rows, inner, columns in products.elements()
    ]
    return lambda: [torch._int_mm(left, right) for left, right in operands]


def rate(calls: list[Callable[[], Any]], seconds: float) -> float:
    """Returns how many calls a second are done by as many threads as there are calls, after the warm-up."""
    begin = time.perf_counter() + WARM_UP
    end = begin + seconds

    def repeat(call: Callable[[], Any]) -> int:
        done = 0
        while (now := time.perf_counter()) < end:
            call()
            done += now >= begin
        return done

    with ThreadPoolExecutor(len(calls)) as pool:
        return sum(pool.map(repeat, calls)) / seconds


def texts_per_second(what: str, release_folder: Path, requests: list[list[str]], seconds: float) -> dict[str, Any]:
    """Measures the model in this process, or its products in int8 alone."""
    if what == IN_PROCESS:
        classifier = load_classifier(release_folder)
        turns = iter(range(sys.maxsize))
        call = lambda: classifier.classify(requests[next(turns) % len(requests)])  # noqa: E731
        return {"texts_per_second": len(requests[0]) * rate([call], seconds)}
    products, floating = matrix_products(profiled_calls(release_folder, [requests[0][0]])[0])
    make = {"onnxruntime": onnxruntime_products, "torch": torch_products}[what]
    cpus = len(os.sched_getaffinity(0))
    integer = sum(count * math.prod(shape) for shape, count in products.items())
    return {
        "texts_per_second": rate([make(products) for _ in range(cpus)], seconds),
        "integer_multiplications": integer,
        "floating_multiplications": floating,
    }


def measure(quick: bool, folder: Path) -> list[Figure]:
    """Measures what is served, in turn with the model in a process and with its products."""
    texts = texts_of_length("reviews", TEXTS)
    single, batches = (write_requests(folder, "reviews", texts, size) for size in (1, BATCH))
    seconds = 2.0 if quick else 3.0
    takers: dict[str, Callable[[], Any]] = {
        IN_PROCESS: partial(run_module, "limit", IN_PROCESS, release(quick), batches, seconds),
        **{PRODUCTS[what]: partial(run_module, "limit", what, release(quick), single, seconds) for what in PRODUCTS},
    }
    with Running(contenders(quick)[OURS](), folder / "server") as server:
        takers["singles"] = partial(server.load, single, 32, WARM_UP, seconds)
        takers["batches"] = partial(server.load, batches, 4, WARM_UP, seconds)
        samples = alternate(1 if quick else FEWEST, takers)
    served = {name: samples.pop(name) for name in ("singles", "batches")}
    rates = {who: [sample["texts_per_second"] for sample in taken] for who, taken in samples.items()}
    singles = [sample["requests_per_second"] for sample in served["singles"]]
    in_batches = [BATCH * sample["requests_per_second"] for sample in served["batches"]]
    tell(f"texts/s: served {singles}, {BATCH} a request {in_batches}; {rates}")
    counts = samples[PRODUCTS["onnxruntime"]][0]
    note = (
        f"a text takes {counts['integer_multiplications'] / 1e9:.2f} billion multiplications in int8 and "
        f"{counts['floating_multiplications'] / 1e9:.2f} in float"
    )
    eight = {OURS: in_batches, IN_PROCESS: rates.pop(IN_PROCESS)}
    return [
        Figure(
            f"reviews, 4 clients, {BATCH} texts a request: texts/s", "texts/s", eight, targets={IN_PROCESS: OF_PROCESS}
        ),
        Figure("reviews, 32 clients: texts/s", "texts/s", {OURS: singles, **rates}, shown=True, note=note),
    ]


if __name__ == "__main__":
    # What to measure, the release, a JSON file with a list of requests, each a list of texts; seconds.
    what, folder, path, seconds = sys.argv[1:]
    requests = json.loads(Path(path).read_text(encoding="utf-8"))
    print(json.dumps(texts_per_second(what, Path(folder), requests, float(seconds))))
