"""Serves a release by KServe's own model server: protocols v1 and v2 over HTTP, v2 over gRPC; no Java, no torch.

`python -m nlp_pipeline.serving.server [--model_dir RELEASE]` serves a release, by default what KServe has mounted at
/mnt/models. It takes the model out of the archive in memory, and writes nothing. It listens when the model has answered
its first texts; asked to end (SIGTERM), it answers what it has taken, and takes no more.
"""

import argparse
import asyncio
import gc
import importlib.util
import json
import logging
import signal
import sys
import time
import types
import uuid
import warnings
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    # KServe's package imports its client for clusters with all else, which takes 45 MB and a third of a second: here
    # it stands for its folder alone.
    package = types.ModuleType("kserve")
    package.__path__ = list(getattr(importlib.util.find_spec("kserve"), "submodule_search_locations", None) or ())
    sys.modules["kserve"] = package

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kserve.errors import InvalidInput, ModelNotReady
from kserve.model import Model
from kserve.model_server import ModelServer, app
from kserve.model_server import parser as kserve_flags
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.infer_type import InferOutput, InferRequest, InferResponse
from kserve.protocol.rest import server as rest_server
from prometheus_client import Counter
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from nlp_pipeline.errors import UsageError
from nlp_pipeline.release import RECORD, parse_record
from nlp_pipeline.serving.archived import load_archived
from nlp_pipeline.serving.model import FORM, SIZE, check_count, status_of, texts_of, valid_unicode
from nlp_pipeline.serving.scheduling import BusyError, Workers

FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
GRACE = 120  # seconds, for what is in flight when it is asked to end
requests_log = logging.getLogger("nlp_pipeline.requests")

TEXTS = Counter("nlp_texts", "Texts answered.", ["model_name"])
TOKENS = Counter("nlp_tokens", "Tokens of the texts answered, special ones included.", ["model_name"])
SECONDS = Counter("nlp_stage_seconds", "Seconds of work on texts, by stage.", ["model_name", "stage"])
REFUSED = Counter("nlp_refused", "Requests refused, by HTTP status.", ["model_name", "status"])


class RefusedError(InvalidInput):  # type: ignore[misc]
    """A request that can't be answered: what is wrong with it, and the HTTP status."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class OverloadedError(ModelNotReady):  # type: ignore[misc]
    """More requests wait than may: a 503 of KServe's, which reads `reason` for gRPC."""

    def __init__(self, reason: str) -> None:
        self.error_msg = self.reason = reason


def read_v1(body: bytes, headers: dict[str, str]) -> list[str]:
    """Returns the texts of a v1 request; ValueError or OverflowError where there are none."""
    if headers.get("content-type", "").startswith(FORMS):
        raise ValueError(FORM)
    return texts_of(body)


def read_v2(request: InferRequest) -> list[str]:
    """Returns the texts of a v2 request; ValueError or OverflowError where there are none."""
    inputs = request.inputs
    if len(inputs) != 1 or inputs[0].datatype != "BYTES":
        kinds = ", ".join(f"{item.name} ({item.datatype})" for item in inputs) or "none"
        raise ValueError(f"the inputs are {kinds}: send one, of datatype BYTES, with a text for each element")
    try:
        values = inputs[0].as_numpy().ravel().tolist()
    except Exception as error:  # noqa: BLE001, of numpy's and struct's
        raise ValueError(f"the input can't be read ({error})") from None
    check_count(len(values))
    texts = []
    for number, value in enumerate(values):
        try:
            texts.append(value.decode() if isinstance(value, bytes) else valid_unicode(value))
        except (UnicodeDecodeError, AttributeError):
            raise ValueError(f"element {number} of the input is no text in UTF-8") from None
    return texts


def outputs_of(is_multiple: bool) -> dict[str, str]:
    """Returns the datatypes of v2's outputs by their names."""
    return {"labels": "BYTES"} if is_multiple else {"label": "BYTES", "score": "FP32"}


def write_v2(request: InferRequest, answers: list[dict[str, Any]], is_multiple: bool) -> InferResponse:
    """Returns the answer to a v2 request; the labels of a text that has several are JSON."""
    outputs = []
    for name, datatype in outputs_of(is_multiple).items():
        output = InferOutput(name, [len(answers)], datatype)
        items = [json.dumps(answer[name]) if is_multiple else answer[name] for answer in answers]
        values = np.array(items, dtype=np.float32 if datatype == "FP32" else np.object_)
        output.set_data_from_numpy(values, binary_data=request.use_binary_outputs)
        outputs.append(output)
    return InferResponse(
        response_id=request.id or str(uuid.uuid4()),
        model_name=request.model_name,
        infer_outputs=outputs,
        use_binary_outputs=request.use_binary_outputs,
        requested_outputs=request.request_outputs,
    )


class TextModel(Model):  # type: ignore[misc]
    """A release's model: texts in, labels and scores out."""

    def __init__(self, release: Path) -> None:
        record = parse_record((release / RECORD).read_bytes())
        if record is None:
            raise UsageError(f"{release / RECORD} is not the record of a release: is --model_dir a release's folder?")
        super().__init__(record.model_name)
        classifier = load_archived(release, self.name)
        self.workers, self.is_multiple = Workers(classifier), classifier.thresholds is not None
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        """What v2 says of the input."""
        return [{"name": "text", "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """What v2 says of the outputs."""
        outputs = outputs_of(self.is_multiple).items()
        return [{"name": name, "datatype": datatype, "shape": [-1]} for name, datatype in outputs]

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Answers a request: a body as it came, of v1, or an InferRequest, of v2."""
        began, status, job = time.perf_counter(), 200, None
        is_v2 = isinstance(payload, InferRequest)
        try:
            job = await self.workers.answer(read_v2(payload) if is_v2 else read_v1(payload, headers))
            return write_v2(payload, job.answers, self.is_multiple) if is_v2 else {"predictions": job.answers}
        except BusyError as error:
            status = 503
            raise OverloadedError(str(error)) from None
        except Exception as error:
            status = status_of(error)
            if status == 500:
                raise
            raise RefusedError(str(error), status) from None
        finally:
            self.count(status, job)
            if requests_log.isEnabledFor(logging.INFO):
                spent = {name: round(value, 6) for name, value in job.spent.items()} if job else {}
                seconds = round(time.perf_counter() - began, 6)
                size = {"texts": len(job.texts)} if job else {}
                facts = {"protocol": "v2" if is_v2 else "v1", "status": status, "seconds": seconds} | size | spent
                requests_log.info(json.dumps(facts))

    def count(self, status: int, job: Any) -> None:
        """Counts what was answered, for Prometheus."""
        if job is None:
            REFUSED.labels(self.name, status).inc()
            return
        TEXTS.labels(self.name).inc(len(job.texts))
        TOKENS.labels(self.name).inc(job.spent["tokens"])
        for stage in ("tokenise", "infer"):
            SECONDS.labels(self.name, stage).inc(job.spent[stage])


class BytesDataPlane(DataPlane):  # type: ignore[misc]
    """Hands a v1 body over as it came: it may be in gzip, or in UTF-16, whatever its headers say."""

    def decode(self, body: Any, headers: Any, protocol_version: str = "v1", model_name: Any = None) -> Any:
        """Reads a v2 body."""
        if protocol_version == "v1":
            return body, {}
        return super().decode(body, headers, protocol_version, model_name)

    def encode(self, model_name: Any, response: Any, headers: Any, req_attributes: Any) -> Any:
        """Writes an answer; never as a CloudEvent."""
        return super().encode(model_name, response, {}, {})


async def refuse(_: Any, error: Any) -> JSONResponse:
    """Returns the response to a request that is refused: by us, by FastAPI, or as its body is too large."""
    if isinstance(error, RequestValidationError):
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        return JSONResponse({"error": f"the body is no request of v2 ({place}: {problem['msg']})"}, 400)
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    return JSONResponse({"error": str(error)}, error.status)


class Server(ModelServer):  # type: ignore[misc]
    """KServe's server, with our limits; asked to end, it ends by HTTP and by gRPC at the same time."""

    def __init__(self, host: str, **options: Any) -> None:
        super().__init__(grace_period=GRACE, enable_latency_logging=False, **options)
        self.host = host
        self.dataplane = BytesDataPlane(model_registry=self.registered_models)
        # KServe's times each request for a log that is off: a quarter of what the event loop had to do.
        rest_server.TimingMiddleware = lambda app, **_: app
        app.add_middleware(RequestBodyLimitMiddleware, max_body_size=SIZE)
        for kind in (RefusedError, RequestValidationError, HTTPException):
            app.add_exception_handler(kind, refuse)

    async def _serve(self) -> None:
        self._rest_server.config.host = self.host
        await asyncio.gather(super()._serve(), self._end_grpc())

    async def _end_grpc(self) -> None:
        """Ends gRPC when HTTP ends, which uvicorn does by the signal that KServe waits for."""
        while not self._rest_server._server.should_exit:
            await asyncio.sleep(0.1)
        if self._grpc_server:
            await self._grpc_server.stop(signal.SIGTERM)


def main() -> None:
    """Serves a release; takes the flags of KServe's servers, too."""
    parser = argparse.ArgumentParser("python -m nlp_pipeline.serving.server", parents=[kserve_flags])
    parser.add_argument("--model_dir", type=Path, default=Path("/mnt/models"), help="the release's folder")
    parser.add_argument("--host", default="0.0.0.0", help="the address to listen at")  # noqa: S104, a container's
    parser.add_argument("--log_requests", action="store_true", help="write a line of JSON for each request")
    arguments = parser.parse_args()
    server = Server(
        arguments.host,
        http_port=arguments.http_port,
        grpc_port=arguments.grpc_port,
        enable_grpc=arguments.enable_grpc,
    )
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # of KServe's own doings
    # Its own lines, of which there are many for each request, and of the access log.
    for name in ("kserve", "kserve.trace", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    requests_log.setLevel(logging.INFO if arguments.log_requests else logging.WARNING)
    try:
        model = TextModel(arguments.model_dir)
    except Exception as error:  # noqa: BLE001, also what ONNX Runtime makes of a spoilt model
        sys.exit(f"error: {arguments.model_dir} can't be served: {error}")
    gc.freeze()  # what is loaded stays: collections need not look at it
    server.start([model])


if __name__ == "__main__":
    main()
