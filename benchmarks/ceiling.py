"""`python -m benchmarks.ceiling`: the archive's own model.onnx in one process, with no server: this route's ceiling."""

import argparse
import json
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.load import percentile


class Session:
    """The archive's model and tokenizer, asked one text a call."""

    def __init__(self, archive: Path, threads: int) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        from nlp_pipeline.serving import handler

        settings = json.loads((archive / "serving.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(archive / "tokenizer.json"))
        self.tokenizer.enable_truncation(settings["max_length"])
        self.tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            str(archive / "model.onnx"),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=getattr(handler, "SLOW_FUSIONS", []),  # as fast as ours can be
        )
        self.types = {
            one.name: "int32" if one.type == "tensor(int32)" else "int64" for one in self.session.get_inputs()
        }

    def classify(self, text: str) -> int:
        """Returns the class id of a text."""
        import numpy as np

        one = self.tokenizer.encode(text)
        columns = {"input_ids": one.ids, "attention_mask": one.attention_mask, "token_type_ids": one.type_ids}
        fed = {name: np.array([columns[name]], dtype=kind) for name, kind in self.types.items()}
        return int(self.session.run(None, fed)[0].argmax())


def run(session: Session, texts: list[str], callers: int, warm_up: float, seconds: float) -> dict[str, Any]:
    """Asks from a number of threads at once, and tells of what was answered after the warm-up.

    Args:
        session: The session.
        texts: The texts, over and over.
        callers: How many threads ask.
        warm_up: Seconds before anything is counted.
        seconds: Seconds of counting.

    Returns:
        `requests_per_second`, `p50_ms` and `p99_ms`, a text a request.
    """
    latencies: list[float] = []
    begin = time.perf_counter() + warm_up
    end = begin + seconds

    def call(first: int) -> None:
        at, came = first, 0.0
        while came < end:
            asked = time.perf_counter()
            session.classify(texts[at % len(texts)])
            at, came = at + callers, time.perf_counter()
            if begin <= came < end:
                latencies.append(came - asked)

    threads = [threading.Thread(target=call, args=(first,)) for first in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    latencies.sort()
    return {
        "requests_per_second": len(latencies) / seconds,
        "p50_ms": percentile(latencies, 50),
        "p99_ms": percentile(latencies, 99),
    }


def main() -> None:
    """Reads the command line, asks, and prints what came of it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ceiling", description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, help="the unpacked archive")
    parser.add_argument("requests", type=Path, help="a JSON file: a list of requests, each a list of texts")
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime, within a call")
    parser.add_argument("--callers", type=int, default=1, help="threads that call")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds")
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    texts = [text for request in json.loads(args.requests.read_text(encoding="utf-8")) for text in request]
    print(json.dumps(run(Session(args.archive, args.threads), texts, args.callers, args.warm_up, args.seconds)))


if __name__ == "__main__":
    main()
