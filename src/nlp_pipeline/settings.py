"""The settings: from flags, the environment, Kubeflow's or Google's variables, a file, or defaults, and from where.

Secrets have no flag, as what stands in a process's arguments can be read by all on the machine.
"""

import getpass
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any, Literal

from dotenv import dotenv_values
from pydantic import Field, NonNegativeInt, SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from nlp_pipeline.errors import UsageError

PREFIX = "NLP_PIPELINE_"
SIGN_IN = "NLP_PIPELINE_ENDPOINT_TOKEN or NLP_PIPELINE_ENDPOINT_COOKIE"
ODD = "has a blank, a line break or another odd character in it: set it anew without"
# Variables that Kubeflow and Google's libraries themselves set or read; of two for one setting the last counts.
KUBEFLOW = {
    "KF_PIPELINES_ENDPOINT": "host",
    "KF_PIPELINES_DEFAULT_EXPERIMENT_NAME": "experiment",
    "KF_PIPELINES_OVERRIDE_EXPERIMENT_NAME": "experiment",
}
# Where kfp's own client finds Kubeflow Pipelines from within a pod, which has this variable.
IN_POD, POD_HOST = "KUBERNETES_SERVICE_HOST", "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
GOOGLE = {"GOOGLE_CLOUD_PROJECT": "project", "GOOGLE_CLOUD_REGION": "region"}
SECRET = SecretStr("")
# What secrets may be, as headers have them.
TOKEN, COOKIES = "[!-~]*", "([!-~]+( [!-~]+)*)?"


class Settings(BaseSettings):
    """Settings, each from a flag, or else the environment variable NLP_PIPELINE_<NAME>, or else a file."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore")

    platform: Literal["kubeflow", "vertex"] = "kubeflow"
    pipeline: str = "train"  # or one of the others that there are on Kubeflow
    experiment: str = "nlp-pipeline"
    image: str = ""  # holds every step's packages
    service_account: str = ""  # that runs have; an e-mail on Vertex AI
    run_as_user: NonNegativeInt | None = None  # the number of the user that the steps run as on Kubeflow

    host: str = ""  # Kubeflow's address, as in https://kubeflow.example.com
    namespace: str = ""  # of your profile, where Kubeflow has several users
    username: str = ""  # e-mail address or name to sign in with
    password: SecretStr = SECRET
    token: SecretStr = SECRET  # instead of user name and password
    cookies: SecretStr = SECRET  # of a browser that is signed in, as a Cookie header has them
    ca_cert: str = ""  # file with the certificates of a private authority
    insecure: bool = False  # do not verify the server's certificate

    project: str = ""  # of Google Cloud, where runs on Vertex AI are
    region: str = "us-central1"
    bucket: str = ""  # where runs on Vertex AI write, as in gs://bucket/folder
    vertex_endpoint: str = ""  # address to reach all of Google's APIs at, as a gateway's; empty for Google's own

    s3_endpoint: str = ""  # address of the object store that holds the runs' artifacts
    s3_access_key: SecretStr = SECRET
    s3_secret_key: SecretStr = SECRET
    s3_region: str = ""

    # Host name of a model, where a gateway is asked that routes by it.
    endpoint_host: str = Field(default="", pattern="^[A-Za-z0-9.:_-]*$")
    endpoint_token: SecretStr = SECRET
    endpoint_cookie: SecretStr = SECRET

    def sign_in_headers(self) -> dict[str, str]:
        """Returns the headers that sign a request to an endpoint in; raises UsageError where a secret can't be one."""
        token, cookie = header_value(self, "endpoint_token"), header_value(self, "endpoint_cookie", COOKIES)
        return {**({"Authorization": f"Bearer {token}"} if token else {}), **({"Cookie": cookie} if cookie else {})}

    def endpoint_headers(self) -> dict[str, str]:
        """Returns the headers of a request to an endpoint: those that sign in, and its host."""
        return {**({"Host": self.endpoint_host} if self.endpoint_host else {}), **self.sign_in_headers()}

    def ask_password(self) -> None:
        """Asks for the password on a terminal, where it is needed and missing."""
        is_known = any(secret.get_secret_value() for secret in (self.password, self.token, self.cookies))
        if self.platform == "kubeflow" and self.username and not is_known and sys.stdin.isatty():
            try:
                self.password = SecretStr(getpass.getpass(f"password of {self.username}: ", sys.stderr))
            except EOFError:
                raise UsageError("no password was given") from None


def header_value(settings: Settings, name: str, allowed: str = TOKEN) -> str:
    """Returns a secret that a header will have; UsageError where it can't: the HTTP client's error would show it."""
    value: str = getattr(settings, name).get_secret_value()
    if not re.fullmatch(allowed, value):
        raise UsageError(f"{PREFIX}{name.upper()} {ODD}")
    return value


def redacted(settings: Settings, text: str, *more: str) -> str:
    """Returns a server's text with stars for the secrets that it may have been sent: the settings', and `more`."""
    values = [getattr(settings, name) for name in Settings.model_fields]
    secrets = [*more, *(value.get_secret_value() for value in values if isinstance(value, SecretStr))]
    pieces = [piece.partition("=")[2] for secret in secrets for piece in secret.split("; ")]
    for secret in sorted({*secrets, *pieces}, key=len, reverse=True):
        if len(secret) > 3:  # less would rather be a word of the text's own
            text = text.replace(secret, "********")
    return text


def read_file(path: Path) -> dict[str, str]:
    """Returns the settings in a file of NAME=VALUE lines; one that is not there holds nothing."""
    if not path.is_file():
        return {}
    try:
        # Not interpolated: a password may have "${" in it.
        lines = dotenv_values(path, encoding="utf-8", interpolate=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read ({type(error).__name__}): write NAME=VALUE lines in UTF-8") from None
    return {
        name.lower().removeprefix(PREFIX.lower()): value
        for name, value in lines.items()
        if value is not None and name.lower().startswith(PREFIX.lower())
    }


def load_settings(flags: dict[str, Any], file: Path | None) -> tuple[Settings, dict[str, str]]:
    """Returns the settings, and where each of them came from.

    Args:
        flags: What flags set, by the settings' names; None and False for those that are not given.
        file: A file of NAME=VALUE lines; None for `.env` in the working folder, which need not be there.

    Raises:
        UsageError: The file is not there or can't be read, or a value is wrong.
    """
    if file is not None and not file.is_file():
        raise UsageError(f"--config {file}: there is no such file")
    path = file or Path(".env")
    variables = {name: value for name, value in os.environ.items() if value}
    sources = {
        "a flag": {name: value for name, value in flags.items() if value not in (None, False)},
        "the environment": EnvSettingsSource(Settings)(),
        "Kubeflow's environment": {name: variables[key] for key, name in KUBEFLOW.items() if key in variables},
        "Google's environment": {name: variables[key] for key, name in GOOGLE.items() if key in variables},
        str(path): read_file(path),
        "this pod": {"host": POD_HOST} if IN_POD in variables else {},
    }
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    for origin, source in sources.items():
        for name in origins.keys() & source.keys() - values.keys():
            values[name], origins[name] = source[name], origin
    for name in ("host", "s3_endpoint", "vertex_endpoint"):
        if "@" in str(values.get(name, "")):
            raise UsageError(
                f"{name}, from {origins[name]}: an address with a user name or a password in it is not taken, as "
                f"addresses are shown; set {PREFIX}USERNAME and {PREFIX}PASSWORD"
            )
    try:
        return Settings.model_validate(values), origins
    except ValidationError as error:
        # pydantic's message would show the value.
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0])
        raise UsageError(f"{name}, from {origins[name]}: {first['msg']}") from None


@cache
def settings() -> Settings:
    """Returns the settings of the environment and of `.env`; raises UsageError where they are wrong."""
    return load_settings({}, None)[0]
