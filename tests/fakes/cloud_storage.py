"""A stand-in for Cloud Storage's download address, and for the metadata server that containers sign in by.

The rules are those of https://cloud.google.com/storage/docs/json_api/v1/objects/get (`alt=media`) and of
https://cloud.google.com/compute/docs/metadata.
"""

import base64
import dataclasses
import hashlib
import json
import re
import urllib.parse
from pathlib import Path
from typing import Any

import google_crc32c

from tests.fakes.httpd import Host, Request, Response

CRC32C: Any = google_crc32c.Checksum  # it has no types
TOKEN = "ya29.token-of-the-serving-account"
DENIED = "serving@example.iam.gserviceaccount.com does not have storage.objects.get access to the object.\n"


@dataclasses.dataclass
class CloudStorage:
    """Objects by "bucket/name"."""

    objects: dict[str, bytes] = dataclasses.field(default_factory=dict)
    denied: set[str] = dataclasses.field(default_factory=set)  # may not be read
    cut: set[str] = dataclasses.field(default_factory=set)  # break off in the middle when they are first downloaded
    mixed_up: set[str] = dataclasses.field(default_factory=set)  # arrive with a byte changed
    asked: list[Request] = dataclasses.field(default_factory=list)  # for downloads
    signed_in: bool = False  # whether only the service account may read

    def __post_init__(self) -> None:
        self.host, self.metadata = Host(self.answer), Host(self.answer_metadata)

    def upload(self, folder: Path, place: str) -> None:
        """Stores a folder's files, in "bucket" or "bucket/folder"."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.objects[f"{place}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()

    def answer(self, request: Request) -> Response:
        """Answers as Cloud Storage does."""
        if request.method == "GET" and re.fullmatch("/storage/v1/b/[^/]+", request.path):
            return Response(403, "{}")  # Google's client looks the bucket up for its traces, and does well without
        self.asked.append(request)
        result = re.fullmatch(r"/download/storage/v1/b/([^/]+)/o/([^/]+)", request.path)
        if request.method != "GET" or not result or ("alt", "media") not in request.query:
            return Response(501, f"the stand-in knows no {request.method} {request.target}")
        if self.signed_in and request.headers.get("authorization") != f"Bearer {TOKEN}":
            return Response(401, "Invalid Credentials\n")
        key = f"{result[1]}/{urllib.parse.unquote(result[2])}"
        if key in self.denied:
            return Response(403, DENIED)
        if key not in self.objects:
            return Response(404, f"No such object: {key}")
        content = self.objects[key]
        sums = {"crc32c": CRC32C(content).digest(), "md5": hashlib.md5(content).digest()}
        headers = [
            ("x-goog-hash", ",".join(f"{kind}={base64.b64encode(value).decode()}" for kind, value in sums.items())),
            ("x-goog-generation", "1"),
            ("x-goog-stored-content-length", str(len(content))),
        ]
        if key in self.mixed_up:
            content = bytes([content[0] ^ 1]) + content[1:]
        if key in self.cut:
            self.cut.discard(key)
            return Response(200, content[: len(content) // 2], headers)
        if "range" in request.headers:
            start = int(request.headers["range"].removeprefix("bytes=").partition("-")[0])
            return Response(206, content[start:], headers)
        return Response(200, content, headers)

    def answer_metadata(self, request: Request) -> Response:
        """Answers as the metadata server does."""
        headers, accounts = [("Metadata-Flavor", "Google")], "/computeMetadata/v1/instance/service-accounts"
        if request.headers.get("metadata-flavor") != "Google":
            return Response(403, "Missing Metadata-Flavor:Google header.")
        texts = {"/": "computeMetadata/", "/computeMetadata/v1/universe/universe-domain": "googleapis.com"}
        # An account by another name than an e-mail address: of those, Google's client asks more, and on the internet.
        details = {"email": "serving", "aliases": ["default"], "scopes": []}
        objects = {
            f"{accounts}/default/": details,
            f"{accounts}/serving/": details,
            f"{accounts}/default/token": {"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"},
        }
        if request.path in texts:
            return Response(200, texts[request.path], [*headers, ("Content-Type", "application/text")])
        if request.path in objects:
            return Response(200, json.dumps(objects[request.path]), [*headers, ("Content-Type", "application/json")])
        return Response(404, "", headers)
