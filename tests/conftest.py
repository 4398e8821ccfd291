"""What tests share: an encoder small enough to train in seconds, rows that it can learn, and the order of tests."""

import contextlib
import os
import random
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.pipeline import compiling
from nlp_pipeline.steps.train_model.settings import TrainSettings
from nlp_pipeline.volume import Run
from tests.fakes.tls import Authority

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Tiny models are trained many times faster without threads, which wait for each other on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"
# To read the certificates of the world takes each HTTP client 20 to 50 ms; one of no one's does.
if "NLP_PIPELINE_TEST_CLUSTER" not in os.environ:
    certificates = tempfile.TemporaryDirectory()
    os.environ["SSL_CERT_FILE"] = str(Authority(Path(certificates.name)).path)
    os.environ["SSL_CERT_DIR"] = certificates.name
# A shell lets what it starts in the background ignore Ctrl-C, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

compile_anew, compile_once = compiling.compile_pipeline, cache(compiling.compile_pipeline)


def compile_pipeline(image: str | None = None, pipeline: str = "kubeflow", run_as_user: int | None = None) -> str:
    """Takes the place of the function in `compiling`: each pipeline is compiled once by each process that tests."""
    return compile_once(image, pipeline, run_as_user)


compiling.compile_pipeline = compile_pipeline

WORDS = {
    "0": ["dreadful", "boring", "awful"],
    "1": ["weak", "dull", "thin"],
    "2": ["fair", "plain", "usual"],
    "3": ["good", "sound", "neat"],
    "4": ["superb", "brilliant", "moving"],
}
FILLER = [
    "the", "a", "film", "plot", "was", "and", "actors", "story", "it", "with", "scene", "music", "of", "in",
    "very", "long",
]  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Fast tests first, so that a mistake shows soon; then the slow ones, the longest first.

    Of several processes, of which each is given a stretch of the tests, all but the last begin with one of the longest.
    """
    longest = [
        "test_the_demo", "test_from_an_empty_namespace", "test_ones_own_data", "test_whole_run.py",
        "train_model/test_processes.py", "test_export.py", "test_docs_commands.py", "test_nodes.py",
        "test_scenario.py", "test_fine_tune.py", "",
    ]  # fmt: skip
    slow = [item for item in items if item.get_closest_marker("slow")]
    slow.sort(key=lambda item: next(at for at, part in enumerate(longest) if part in item.nodeid))
    processes = getattr(config, "workerinput", {}).get("workercount", 1)
    count, first = len(items), slow[: processes - 1]
    items[:] = [item for item in items if not item.get_closest_marker("slow")] + deal(slow[len(first) :])
    for number, item in enumerate(first):
        items.insert(number * count // processes, item)


def deal(items: list[pytest.Item]) -> list[pytest.Item]:
    """Puts items in an order of which each half begins with its longest: a process steals the half that is behind."""
    return items if len(items) < 3 else deal(items[::2]) + deal(items[1::2])


def make_rows(count: int, classes: int = 2, seed: int = 0) -> list[tuple[str, str]]:
    """Returns texts, all different, each with a word that tells its label: "0", "1" ... up to `classes`."""
    rng = random.Random(seed)
    labels = [str(number) for number in ((0, 4) if classes == 2 else range(classes))]
    rows = []
    for number in range(count):
        label = labels[number % len(labels)]
        words = [*rng.choices(FILLER, k=rng.randint(3, 12)), rng.choice(WORDS[label]), str(number)]
        rng.shuffle(words)
        rows.append((" ".join(words), label))
    rng.shuffle(rows)
    return rows


def make_rows_of_several(count: int, seed: int = 0) -> list[tuple[str, list[str]]]:
    """Returns texts, all different, each with a word for each of its labels, which are some of "0", "2" and "4"."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        labels = [label for label in ("0", "2", "4") if rng.random() < 0.4]
        words = [
            *rng.choices(FILLER, k=rng.randint(3, 8)),
            *(rng.choice(WORDS[label]) for label in labels),
            str(number),
        ]
        rng.shuffle(words)
        rows.append((" ".join(words), labels))
    return rows


@pytest.fixture(scope="session")
def rows() -> Callable[..., list[tuple[str, str]]]:
    """The function `make_rows`."""
    return make_rows


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a new BERT encoder of two layers and a tokenizer that knows the words of `make_rows`."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *FILLER, *(word for some in WORDS.values() for word in some)]
    words += [chr(ord("a") + at) for at in range(26) if chr(ord("a") + at) not in words]
    tokenizer = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=64,
    )  # fmt: skip
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    folder = tmp_path_factory.mktemp("encoder")
    transformers.BertModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def write_parquet(
    path: Path, rows: Sequence[tuple[str, Any]], metadata: dict[str, str] | None = None, **columns: list[Any]
) -> Path:
    """Writes rows as the steps hand them on: text, label, and what else is given; the schema's metadata too."""
    import pyarrow
    import pyarrow.parquet

    table = {"text": [text for text, _ in rows], "label": [label for _, label in rows], **columns}
    pyarrow.parquet.write_table(pyarrow.table(table, metadata=metadata), path)
    return path


@contextlib.contextmanager
def without_a_trial() -> Iterator[None]:
    """Spares trainings in this process the export before them, which takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nlp_pipeline.steps.train_model.fine_tune.require_servable", lambda *_: None)
        yield


@pytest.fixture(scope="session")
def model(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a classifier of two classes, "0" and "4", trained on `make_rows` by the step itself."""
    from nlp_pipeline.steps.train_model.fine_tune import fine_tune

    folder = tmp_path_factory.mktemp("model")
    rows = write_parquet(folder / "train.parquet", make_rows(400))
    settings = TrainSettings(base_model=str(encoder), **TRAINING)
    run = Run(model_name="tiny", run_id="run", volume_path=str(folder))
    source = {"source": "train.csv", "source_sha256": "ab12"}
    with without_a_trial():
        fine_tune(rows, folder / "model", settings, seed=1, run=run, source=source)
    return folder / "model"


@pytest.fixture(scope="session")
def model_of_several(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a classifier that gives a text some of the labels "0", "2" and "4"."""
    from nlp_pipeline.steps.train_model.fine_tune import fine_tune

    folder = tmp_path_factory.mktemp("several")
    labelled, rows = make_rows_of_several(600), folder / "train.parquet"  # in two files, as many rows are
    rows.mkdir()
    write_parquet(rows / "part-00000.parquet", labelled[:350])
    write_parquet(rows / "part-00001.parquet", labelled[350:])
    settings = TrainSettings(base_model=str(encoder), **TRAINING | {"epochs": 8.0})
    run = Run(model_name="tiny", run_id="run", volume_path=str(folder))
    with without_a_trial():
        facts = fine_tune(rows, folder / "model", settings, seed=1, run=run)
    assert "thresholds" not in facts  # which go to an artifact's metadata
    return folder / "model"


TRAINING: dict[str, Any] = {"epochs": 3.0, "learning_rate": 2e-3, "batch_size": 16, "max_length": 32}
