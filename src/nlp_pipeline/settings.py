"""What the environment or a `.env` file tells: what an endpoint wants to see of who asks."""

import re
from functools import cache

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from nlp_pipeline.errors import UsageError

SIGN_IN = "NLP_PIPELINE_ENDPOINT_TOKEN or NLP_PIPELINE_ENDPOINT_COOKIE"
ODD = "has a blank, a line break or another odd character in it: set it anew without"


class Settings(BaseSettings):
    """Settings, each from an environment variable NLP_PIPELINE_<NAME>, or else from `.env` in the working folder.

    Attributes:
        endpoint_host: Host name of the model, where an ingress gateway is asked that routes by it.
        endpoint_token: Bearer token for endpoints.
        endpoint_cookie: Cookies for endpoints, as a Cookie header has them.
    """

    model_config = SettingsConfigDict(env_prefix="NLP_PIPELINE_", env_file=".env", extra="ignore")

    endpoint_host: str = ""
    endpoint_token: SecretStr = SecretStr("")
    endpoint_cookie: SecretStr = SecretStr("")

    def sign_in_headers(self) -> dict[str, str]:
        """Returns the headers that sign a request to an endpoint in.

        Raises:
            UsageError: One can't stand in a header.
        """
        token = checked("endpoint_token", self.endpoint_token.get_secret_value(), "[!-~]*", ODD)
        cookie = checked("endpoint_cookie", self.endpoint_cookie.get_secret_value(), "([!-~]+( [!-~]+)*)?", ODD)
        return {**({"Authorization": f"Bearer {token}"} if token else {}), **({"Cookie": cookie} if cookie else {})}

    def endpoint_headers(self) -> dict[str, str]:
        """Returns the headers of a request to an endpoint: those that sign in, and its host.

        Raises:
            UsageError: One can't stand in a header.
        """
        what = f"is {self.endpoint_host!r}: it must be a host name alone, as in model.namespace.example.com"
        host = checked("endpoint_host", self.endpoint_host, "[A-Za-z0-9.:_-]*", what)
        return {**({"Host": host} if host else {}), **self.sign_in_headers()}


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
        raise UsageError(f"NLP_PIPELINE_{name.upper()} {what}")
    return value


@cache
def settings() -> Settings:
    """Returns the settings.

    Raises:
        UsageError: There is a `.env` file, and it can't be read.
    """
    try:
        return Settings()
    except (OSError, ValueError) as error:
        # A message of pydantic's would show the values.
        raise UsageError(f".env can't be read ({type(error).__name__}): write NAME=VALUE lines in UTF-8") from None
