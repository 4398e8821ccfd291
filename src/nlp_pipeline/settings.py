"""The settings: from flags, the environment, Kubeflow's or Google's variables, a file, or defaults, and from where.

Secrets have no flag, as what stands in a process's arguments can be read by all on the machine.
"""

import os
import re
from functools import cache
from pathlib import Path
from typing import Any, Literal

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError
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

    platform: Literal["kubeflow", "vertex"] = Field(default="kubeflow", description="where runs are: kubeflow, vertex")
    host: str = Field(default="", description="Kubeflow's address, as in https://kubeflow.example.com")
    namespace: str = Field(default="", description="namespace of your profile, where Kubeflow has several users")
    experiment: str = Field(default="nlp-pipeline", description="experiment of the runs")
    username: str = Field(default="", description="e-mail address or name to sign in with")
    password: SecretStr = Field(default=SECRET, description="password to sign in with")
    token: SecretStr = Field(default=SECRET, description="bearer token, instead of user name and password")
    cookies: SecretStr = Field(
        default=SECRET, description="cookies of a browser that is signed in, as a Cookie header has them"
    )
    ca_cert: str = Field(default="", description="file with the certificates of a private authority")
    insecure: bool = Field(default=False, description="do not verify the server's certificate")
    image: str = Field(default="", description="image that holds every step's packages")
    service_account: str = Field(default="", description="service account that runs have; an e-mail on Vertex AI")
    project: str = Field(default="", description="Google Cloud project of the runs on Vertex AI")
    region: str = Field(default="us-central1", description="region of the runs on Vertex AI")
    bucket: str = Field(default="", description="where runs on Vertex AI write, as in gs://bucket/folder")
    vertex_endpoint: str = Field(
        default="", description="address to reach all of Google's APIs at, as a gateway's; empty for Google's own"
    )
    s3_endpoint: str = Field(default="", description="address of the object store that holds the runs' artifacts")
    s3_access_key: SecretStr = Field(default=SECRET, description="access key of the object store")
    s3_secret_key: SecretStr = Field(default=SECRET, description="secret key of the object store")
    s3_region: str = Field(default="", description="region of the object store")
    endpoint_host: str = Field(
        default="", description="host name of a model, where a gateway is asked that routes by it"
    )
    endpoint_token: SecretStr = Field(default=SECRET, description="bearer token for endpoints")
    endpoint_cookie: SecretStr = Field(default=SECRET, description="cookies for endpoints, as a Cookie header has them")

    def sign_in_headers(self) -> dict[str, str]:
        """Returns the headers that sign a request to an endpoint in.

        Raises:
            UsageError: One can't stand in a header.
        """
        token, cookie = header_token(self, "endpoint_token"), header_cookie(self, "endpoint_cookie")
        return {**({"Authorization": f"Bearer {token}"} if token else {}), **({"Cookie": cookie} if cookie else {})}

    def endpoint_headers(self) -> dict[str, str]:
        """Returns the headers of a request to an endpoint: those that sign in, and its host.

        Raises:
            UsageError: One can't stand in a header.
        """
        what = f"is {self.endpoint_host!r}: it must be a host name alone, as in model.namespace.example.com"
        host = checked("endpoint_host", self.endpoint_host, "[A-Za-z0-9.:_-]*", what)
        return {**({"Host": host} if host else {}), **self.sign_in_headers()}


def header_token(settings: Settings, name: str) -> str:
    """Returns a token that can stand in a header.

    Raises:
        UsageError: It can't.
    """
    return checked(name, getattr(settings, name).get_secret_value(), "[!-~]*", ODD)


def header_cookie(settings: Settings, name: str) -> str:
    """Returns cookies that can stand in a header.

    Raises:
        UsageError: They can't.
    """
    return checked(name, getattr(settings, name).get_secret_value(), "([!-~]+( [!-~]+)*)?", ODD)


def checked(name: str, value: str, allowed: str, what: str) -> str:
    """Makes sure that a setting can stand in a header: the HTTP client's own message would show it, a secret too.

    Args:
        name: The setting's name.
        value: Its value.
        allowed: What it must match, a regular expression.
        what: What that means, for the message.

    Returns:
        The value.

    Raises:
        UsageError: It can't.
    """
    if not re.fullmatch(allowed, value):
        raise UsageError(f"{PREFIX}{name.upper()} {what}")
    return value


def checked_address(name: str, value: str) -> str:
    """Makes sure that an address holds no user name or password: addresses are shown.

    Args:
        name: The setting's name.
        value: The address.

    Returns:
        The address.

    Raises:
        UsageError: It does.
    """
    if "@" in value:
        raise UsageError(
            f"{name}: an address with a user name or a password in it is not taken, as addresses are shown; set "
            f"{PREFIX}USERNAME and {PREFIX}PASSWORD"
        )
    return value


def redacted(settings: Settings, text: str, *more: str) -> str:
    """Returns a text of a server's, with stars for the secrets that it may have been sent.

    Args:
        settings: The settings.
        text: The text.
        *more: More secrets, as a session's cookies.
    """
    values = [getattr(settings, name) for name in Settings.model_fields]
    secrets = [*more, *(value.get_secret_value() for value in values if isinstance(value, SecretStr))]
    pieces = [piece.partition("=")[2] for secret in secrets for piece in secret.split("; ")]
    for secret in sorted({*secrets, *pieces}, key=len, reverse=True):
        if len(secret) > 3:  # less would rather be a word of the text's own
            text = text.replace(secret, "********")
    return text


def read_file(path: Path) -> dict[str, str]:
    """Reads a file of NAME=VALUE lines.

    Args:
        path: The file; one that is not there holds nothing.

    Returns:
        The settings in it, by their names.

    Raises:
        UsageError: It can't be read.
    """
    if not path.is_file():
        return {}
    try:
        # Not interpolated: a password may have "${" in it.
        found = dotenv_values(path, encoding="utf-8", interpolate=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read ({type(error).__name__}): write NAME=VALUE lines in UTF-8") from None
    lowered = {name.lower(): value for name, value in found.items() if value is not None}
    names = {f"{PREFIX}{name}".lower(): name for name in Settings.model_fields}
    return {names[name]: value for name, value in lowered.items() if name in names}


def load_settings(flags: dict[str, Any], file: Path | None) -> tuple[Settings, dict[str, str]]:
    """Reads the settings.

    Args:
        flags: What flags set, by the settings' names.
        file: A file of NAME=VALUE lines; None for `.env` in the working folder, which need not be there.

    Returns:
        The settings; and where each of them came from.

    Raises:
        UsageError: The file can't be read, or a value is wrong.
    """
    if file is not None and not file.is_file():
        raise UsageError(f"--config {file}: there is no such file")
    path = file or Path(".env")
    of_kubeflow, of_google = (
        {name: os.environ[variable] for variable, name in variables.items() if os.environ.get(variable)}
        for variables in (KUBEFLOW, GOOGLE)
    )
    sources = {
        "a flag": {name: value for name, value in flags.items() if value not in (None, False)},
        "the environment": EnvSettingsSource(Settings)(),
        "Kubeflow's environment": of_kubeflow,
        "Google's environment": of_google,
        str(path): read_file(path),
    }
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    for origin, found in sources.items():
        for name, value in found.items():
            if name in Settings.model_fields and name not in values:
                values[name], origins[name] = value, origin
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
    """Returns the settings of the environment and of `.env`.

    Raises:
        UsageError: They are wrong.
    """
    return load_settings({}, None)[0]
