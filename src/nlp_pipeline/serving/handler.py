"""The TorchServe handler that every archive holds: texts in, labels and scores out, over the KServe v1 protocol.

It is one file with one class, as TorchServe wants it, and takes all but TorchServe's own ways from `model.py`, which
the archive holds beside it under another name (see `packing.py`): a version of this package that is installed where
the archive is served is another one.
"""

import json
import logging
from pathlib import Path
from typing import Any

from nlp_pipeline.serving.model import FORM, TextClassifier, status_of, texts_of

logger = logging.getLogger(__name__)


class TextClassificationHandler(TextClassifier):
    """Classifies texts, by TorchServe's calls."""

    def initialize(self, context: Any) -> None:
        """Loads the model from where TorchServe has unpacked the archive."""
        folder = Path(context.system_properties["model_dir"])
        settings = json.loads((folder / "serving.json").read_text(encoding="utf-8"))
        self.load(str(folder / "model.onnx"), (folder / "tokenizer.json").read_text(encoding="utf-8"), settings)

    def outcomes(self, rows: list[Any]) -> list[Any]:
        """Returns for each request its predictions, or the error that it alone has made.

        TorchServe puts what was sent under "body", as JSON, text or bytes; the fields of a form under their names.
        """
        try:
            if not all(row.keys() & {"body", "data"} for row in rows):
                raise ValueError(FORM)
            requests = [texts_of(row.get("body", row.get("data"))) for row in rows]
            predictions = iter(self.classify([text for texts in requests for text in texts]))
            return [{"predictions": [next(predictions) for _ in texts]} for texts in requests]
        except Exception as error:  # noqa: BLE001, also what a model can't compute
            if len(rows) > 1:  # whose is it?
                return [outcome for row in rows for outcome in self.outcomes([row])]
            return [error]

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        """Answers each request of a batch: `{"predictions": [...]}`, or `{"error": "a sentence"}` and its status."""
        answers = self.outcomes(data)
        for at, error in enumerate(answers):
            context.set_response_content_type(at, "application/json")
            if isinstance(error, Exception):
                status = status_of(error)
                context.set_response_status(status, "", at)
                if status == 500:
                    logger.error("a request failed", exc_info=error)
                answers[at] = {"error": str(error)}
        return answers
