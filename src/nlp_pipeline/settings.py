"""What the environment or a `.env` file tells: what an endpoint wants to see of who asks."""

from functools import cache

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


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
        """Returns the headers that sign a request to an endpoint in."""
        token, cookie = self.endpoint_token.get_secret_value(), self.endpoint_cookie.get_secret_value()
        return {**({"Authorization": f"Bearer {token}"} if token else {}), **({"Cookie": cookie} if cookie else {})}

    def endpoint_headers(self) -> dict[str, str]:
        """Returns the headers of a request to an endpoint: those that sign in, and its host."""
        return {**({"Host": self.endpoint_host} if self.endpoint_host else {}), **self.sign_in_headers()}


@cache
def settings() -> Settings:
    """Returns the settings."""
    return Settings()
