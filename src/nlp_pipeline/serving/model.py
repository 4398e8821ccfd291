"""Tokenises texts, runs the ONNX model, and reads what may be asked: what every server of a release shares.

It runs where the archive runs, also in KServe's stock TorchServe image (Python 3.9). So it needs nothing but numpy,
onnxruntime and tokenizers, and it is one file, which the archive holds beside its handler.
"""

import json
import logging
import math
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Union

import numpy as np
from tokenizers import Tokenizer

# Before it is imported: ONNX Runtime would tell Microsoft of its use, and keep notes of it in the user's home.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

logger = logging.getLogger(__name__)

CHUNK = 32  # texts a model call on a GPU
CHARACTERS = 6  # a token, generously: so much of a long text is looked at first
FAR = 1000  # characters a token: no more is looked at, as megabytes without a space take a gigabyte
WINDOWS = 8  # of a text, at most: the first ones
TEXTS = 256  # a request may hold: others wait until it is answered
SIZE = 6_553_500  # bytes of an unpacked body: as many as TorchServe takes
SEND = 'send {"instances": ["a text", ...]} as application/json, plain or in gzip'
FORM = f"the body came as a form, as curl -d sends it by default; {SEND}"
WARM_UP = ["a short text", "a text that is long enough to be cut at the end " * 64]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# ONNX Runtime's fused forms of these take five times as long as their parts, and half as long again.
SLOW_FUSIONS = ["SkipLayerNormFusion", "BiasSkipLayerNormFusion", "BiasGeluFusion"]


def usable_cpus() -> int:
    """Returns how many CPUs this process may use: its affinity, and its container's quota where there is one.

    ONNX Runtime by itself starts a thread for each core of the machine, however few of them a pod may use.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cpus, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or its quota is "max"
        return cpus


def parse(body: Any) -> Any:
    """Returns the JSON in the bytes of a body: in gzip or not, in UTF-8, UTF-16 or UTF-32, with a BOM or without."""
    if body[:2] == b"\x1f\x8b":  # whatever the headers say: no JSON begins so
        unpacker = zlib.decompressobj(31)
        body = unpacker.decompress(body, SIZE + 1)
        if len(body) > SIZE:
            raise OverflowError(f"more than {SIZE} bytes, unpacked: send it in parts")
        if not unpacker.eof:
            raise ValueError("its gzip is cut off")
    return json.loads(body)


def texts_of(body: Any) -> list[str]:
    """Returns the texts of a request; ValueError says what is wrong with it, OverflowError that it is too large.

    The body is JSON as bytes, as text, or read already. An instance is `"text"`, `{"data": "text"}` or
    `{"text": "text"}`.
    """
    if isinstance(body, (bytes, bytearray, str)):
        try:
            # In bytes, json takes a BOM, UTF-16 and UTF-32 too.
            body = parse(body.encode() if isinstance(body, str) else body)
        except (ValueError, RecursionError, zlib.error) as error:
            raise ValueError(f"the body is no JSON ({error}); {SEND}") from None
    instances = body.get("instances") if isinstance(body, dict) else None
    if not isinstance(instances, list):
        raise ValueError(f'the body has no list "instances"; {SEND}')
    check_count(len(instances))
    texts = []
    for number, instance in enumerate(instances):
        text = instance.get("data", instance.get("text")) if isinstance(instance, dict) else instance
        if not isinstance(text, str):
            raise ValueError(f'instance {number} is neither a text nor an object with a text as "data" or "text"')
        texts.append(valid_unicode(text))
    return texts


def check_count(texts: int) -> None:
    """Raises an OverflowError where a request has more texts than it may."""
    if texts > TEXTS:
        raise OverflowError(f"{texts} texts, and a request may hold {TEXTS}: send it in parts")


def valid_unicode(text: str) -> str:
    """Returns a text without half surrogate pairs: JSON can hold them, and no tokenizer takes them."""
    return text.encode("utf-8", "replace").decode("utf-8")


def status_of(error: Exception) -> int:
    """Returns the HTTP status of what a request has raised: 413, 400, or 500 where it is not the request's fault."""
    if isinstance(error, OverflowError):
        return 413
    # So ONNX Runtime calls what a model can't take, such as a token that it has no embedding for.
    return 400 if isinstance(error, ValueError) or "INVALID_ARGUMENT" in str(error) else 500


def last_word(encoding: Any) -> int:
    """Returns the number of the last word, as the tokenizer counts them, that has a token in an encoding."""
    return max((word for word in encoding.word_ids if word is not None), default=-1)


def open_session(model: Union[str, bytes], provider: str, threads: int) -> Any:
    """Returns an `onnxruntime.InferenceSession` of a model, whose calls are spread over some threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin while they wait for work take the CPUs from the other worker, and from all else there is.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        model,
        options,
        providers=[CPU] if provider == CPU else [provider, CPU],  # what a GPU can't do runs on the CPU
        disabled_optimizers=SLOW_FUSIONS,
    )


class Encoder:
    """Turns texts into the tokens that a model reads, in training as where it serves.

    Of a text of more than `max_length` tokens, special ones included, it reads, as `long_texts` says: `cut`, the first
    ones; `head_tail`, a quarter from its beginning and the rest from its end (Sun et al. 2019, "How to fine-tune BERT
    for text classification"); `windows`, the first WINDOWS parts, of which each begins with the last quarter of the one
    before, and the last one ends where the text ends.
    """

    def prepare(self, tokenizer: str, max_length: int, long_texts: str) -> None:
        """Sets it up with the content of a tokenizer.json."""
        self.tokenizer = Tokenizer.from_str(tokenizer)
        self.max_length = max_length
        self.long_texts = long_texts
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        if long_texts == "cut":
            self.tokenizer.enable_truncation(max_length)
        # How many special tokens stand before a text's own, and behind them.
        special = self.tokenizer.encode("a").special_tokens_mask
        self.before = special.index(0) if 0 in special else 1
        self.behind = sum(special) - self.before

    def parts(self, text: str) -> list[list[int]]:
        """Returns the ids of what a model reads of a text: one part or, as windows, several."""
        if self.long_texts == "cut":
            return [self.encode(text).ids]
        most = FAR * self.max_length
        if len(text) > most:
            half = most // 2
            text = text[:most] if self.long_texts == "windows" else f"{text[:half]} {text[-half:]}"
        encoded = self.tokenizer.encode(text).ids
        if len(encoded) <= self.max_length:
            return [encoded]
        end = len(encoded) - self.behind
        first, ids, last = encoded[: self.before], encoded[self.before : end], encoded[end:]
        size = max(1, self.max_length - self.before - self.behind)
        if self.long_texts == "head_tail":
            return [first + ids[: size // 4] + ids[size // 4 - size :] + last]
        starts = [*range(0, len(ids) - size, max(1, size - size // 4)), len(ids) - size]
        return [first + ids[at : at + size] + last for at in starts[:WINDOWS]]

    def encode(self, text: str) -> Any:
        """Returns what the tokenizer makes of a text, cut at `max_length` tokens, special ones included.

        Of a long text it looks at the beginning first: words do not change what comes before them. The last one it
        sees there may be cut itself, such as a run of spaces.
        """
        beginning = text[: CHARACTERS * self.max_length]
        if beginning != text:
            encoding = self.tokenizer.encode(beginning.rpartition(" ")[0])
            if encoding.overflowing and last_word(encoding) < last_word(encoding.overflowing[-1]):
                return encoding
        return self.tokenizer.encode(text[: FAR * self.max_length])


class TextClassifier(Encoder):
    """Classifies texts with the ONNX model of an archive.

    The archive holds `model.onnx`, `tokenizer.json` and `serving.json` (`labels` in the order of their ids,
    `max_length` in tokens, `pad_token_id`, `precision`; where a text has several labels, their `thresholds`;
    `long_texts`, where that is not cut).

    On a CPU each text is a model call of its own: nothing is padded, and in int8, where the texts of a call have a
    little influence on each other, a text's answer is the same whatever is asked beside it. A lone text is computed
    by all CPUs together, several by one CPU each, which is half as fast again. On a GPU texts share calls.
    """

    def load(self, model: Union[str, bytes], tokenizer: str, settings: dict[str, Any]) -> None:
        """Loads the model, which is a path or in memory, and answers, so that the first request is not the slow one."""
        import onnxruntime

        self.labels = settings["labels"]
        self.thresholds = settings.get("thresholds")
        self.pad_token_id = settings["pad_token_id"]
        self.prepare(tokenizer, settings["max_length"], settings.get("long_texts", "cut"))
        provider, reason = CUDA, "it is in fp32, and this onnxruntime knows a GPU"
        if CUDA not in onnxruntime.get_available_providers():
            provider, reason = CPU, "this onnxruntime knows no GPU"
        elif settings["precision"] == "int8":
            provider, reason = CPU, "int8 is for CPUs; a GPU takes fp32"
        elif hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # CUDA's libraries, which may lie in pip's nvidia packages
        self.cpus = usable_cpus()
        self.together = open_session(model, provider, self.cpus)
        if provider not in self.together.get_providers():
            provider, reason = CPU, "the GPU can't be used: see ONNX Runtime's lines above"
        self.on_gpu = provider == CUDA
        self.chunk = CHUNK if self.on_gpu else 1  # texts a model call
        self.single = self.together if self.on_gpu or self.cpus == 1 else open_session(model, CPU, 1)
        self.pool = ThreadPoolExecutor(self.cpus)
        self.classify(WARM_UP)
        self.classify(WARM_UP[:1])
        logger.info("%d labels, %s (%s), %d CPUs", len(self.labels), provider, reason, self.cpus)

    def classify(self, texts: list[str]) -> list[dict[str, Any]]:
        """Returns for each text, in order, what `name` does."""
        calls = [texts[start : start + self.chunk] for start in range(0, len(texts), self.chunk)]
        apply, session = (map, self.together) if self.on_gpu or len(texts) == 1 else (self.pool.map, self.single)
        return [row for rows in apply(lambda call: self.probabilities(call, session), calls) for row in self.name(rows)]

    def probabilities(self, texts: list[str], session: Any) -> Any:
        """Runs the model once; returns an array of shape (texts, classes)."""
        columns, counts = self.tokenise(texts)
        return self.infer(columns, counts, session)

    def tokenise(self, texts: list[str]) -> Any:
        """Returns the model's inputs for some texts, a row for each part, padded; and how many parts each text has."""
        parts = [self.parts(text) for text in texts]
        rows = [ids for text in parts for ids in text]
        longest = max(map(len, rows))
        fills = {"input_ids": self.pad_token_id, "attention_mask": 0, "token_type_ids": 0}
        columns = {
            column.name: np.full((len(rows), longest), fills[column.name], np.int64)
            for column in self.single.get_inputs()
        }
        for at, ids in enumerate(rows):
            columns["input_ids"][at, : len(ids)] = ids
            columns["attention_mask"][at, : len(ids)] = 1
        return columns, [len(text) for text in parts]

    def infer(self, columns: Any, counts: list[int], session: Any) -> Any:
        """Runs the model on what `tokenise` returned; of one label a text, probabilities sum to 1.

        Of a text's parts the mean of the logits counts. On a CPU each part is a model call of its own, too.
        """
        starts = range(0, sum(counts), self.chunk)
        calls = [{name: values[at : at + self.chunk] for name, values in columns.items()} for at in starts]
        found = np.concatenate([session.run(None, call)[0] for call in calls]).astype(np.float64)
        logits = np.add.reduceat(found, np.cumsum([0, *counts[:-1]])) / np.array(counts)[:, None]
        if self.thresholds:
            return 1 / (1 + np.exp(-logits))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def name(self, rows: Any) -> list[dict[str, Any]]:
        """Returns for each row of probabilities its `label` and its `score`, the probability of that label.

        Or, where a text has several, as `labels` those with scores at or over their thresholds, the best first.
        """
        if self.thresholds:
            pairs = [zip(self.labels, map(float, row)) for row in np.where(rows >= self.thresholds, rows, -1)]
            best = [sorted((pair for pair in row if pair[1] >= 0), key=lambda pair: -pair[1]) for row in pairs]
            return [{"labels": [{"label": label, "score": score} for label, score in row]} for row in best]
        return [{"label": self.labels[at], "score": float(row[at])} for row, at in zip(rows, map(int, rows.argmax(1)))]
