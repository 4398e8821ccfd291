"""The settings: from flags, the environment, Kubeflow's or Google's variables, a file, or defaults, and from where.

Secrets have no flag, as what stands in a process's arguments can be read by all on the machine.
"""

import os
import re
from functools import cache
from pathlib import Path
from typing import Any, Literal

from dotenv import dotenv_values
from pydantic import SecretStr, ValidationError
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
GOOGLE = {"GOOGLE_CLOUD_PROJECT": "project", "GOOGLE_CLOUD_REGION": "region"}
SECRET = SecretStr("")


class Settings(BaseSettings):
    """Settings, each from a flag, or else the environment variable NLP_PIPELINE_<NAME>, or else a file."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore")

    platform: Literal["kubeflow", "vertex"] = "kubeflow"
    experiment: str = "nlp-pipeline"
    image: str = ""  # holds every step's packages
    service_account: str = ""  # that runs have; an e-mail on Vertex AI

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

    endpoint_host: str = ""  # host name of a model, where a gateway is asked that routes by it
    endpoint_token: SecretStr = SECRET
    endpoint_cookie: SecretStr = SECRET

    def sign_in_headers(self) -> dict[str, str]:
        """Returns the headers that sign a request to an endpoint in.

        Raises:
            UsageError: A setting can't stand in a header.
        """
        token, cookie = header_token(self, "endpoint_token"), header_cookie(self, "endpoint_cookie")
        return {**({"Authorization": f"Bearer {token}"} if token else {}), **({"Cookie": cookie} if cookie else {})}

    def endpoint_headers(self) -> dict[str, str]:
        """Returns the headers of a request to an endpoint: those that sign in, and its host.

        Raises:
            UsageError: A setting can't stand in a header.
        """
        problem = f"is {self.endpoint_host!r}: it must be a host name alone, as in model.namespace.example.com"
        host = checked("endpoint_host", self.endpoint_host, "[A-Za-z0-9.:_-]*", problem)
        return {**({"Host": host} if host else {}), **self.sign_in_headers()}


def header_token(settings: Settings, name: str) -> str:
    """Returns the token in a setting; raises UsageError where it can't stand in a header."""
    return checked(name, getattr(settings, name).get_secret_value(), "[!-~]*", ODD)


def header_cookie(settings: Settings, name: str) -> str:
    """Returns the cookies in a setting; raises UsageError where they can't stand in a header."""
    return checked(name, getattr(settings, name).get_secret_value(), "([!-~]+( [!-~]+)*)?", ODD)


def checked(name: str, value: str, allowed: str, problem: str) -> str:
    """Returns a setting's value, where it can stand in a header: the HTTP client's own error would show it whole.

    Args:
        name: The setting's name.
        value: Its value.
        allowed: A regular expression of what can stand there.
        problem: What is wrong with any other, for the message.

    Raises:
        UsageError: It can't.
    """
    if not re.fullmatch(allowed, value):
        raise UsageError(f"{PREFIX}{name.upper()} {problem}")
    return value


def checked_address(name: str, value: str) -> str:
    """Returns an address, where it holds no user name or password, as addresses are shown; else raises UsageError."""
    if "@" in value:
        raise UsageError(
            f"{name}: an address with a user name or a password in it is not taken, as addresses are shown; set "
            f"{PREFIX}USERNAME and {PREFIX}PASSWORD"
        )
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
        flags: What flags set, by the settings' names.
        file: A file of NAME=VALUE lines; None for `.env` in the working folder, which need not be there.

    Raises:
        UsageError: The file can't be read, or a value is wrong.
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
    }
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    for origin, found in sources.items():
        for name in origins.keys() & found.keys() - values.keys():
            values[name], origins[name] = found[name], origin
    for name in ("host", "s3_endpoint", "vertex_endpoint"):
        checked_address(f"{name}, from {origins[name]}", str(values.get(name, "")))
    try:
        return Settings.model_validate(values), origins
    except ValidationError as error:
        # pydantic's message would show the value.
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0])
        raise UsageError(f"{name}, from {origins[name]}: {first['msg'].lower()}") from None


@cache
def settings() -> Settings:
    """Returns the settings of the environment and of `.env`; raises UsageError where they are wrong."""
    return load_settings({}, None)[0]
