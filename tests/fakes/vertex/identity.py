"""Google's sign-in: a service account's key file, and the server that gives tokens for what the key has signed."""

import json
import uuid
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt

from tests.fakes.vertex.rest import Request, Response, answer

EMAIL = "ann@my-project.iam.gserviceaccount.com"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"


@cache
def make_key() -> rsa.RSAPrivateKey:
    """Returns a private key: a short one, since to make it takes a while, and to read it each time."""
    return rsa.generate_private_key(public_exponent=65537, key_size=1024)


class Identity:
    """A service account that may sign in, with its private key; a key that is `revoked` is not taken any more."""

    def __init__(self) -> None:
        forms = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        self.private = make_key().private_bytes(*forms).decode()
        self._tokens: set[str] = set()
        self.revoked = False

    def write_key(self, path: Path, address: str) -> None:
        """Writes the key file, for tokens of the server at an address."""
        key = {"type": "service_account", "project_id": "my-project", "private_key_id": "1", "client_id": "1"}
        key |= {"private_key": self.private, "client_email": EMAIL, "token_uri": f"{address}/token"}
        path.write_text(json.dumps(key))

    def give_token(self, request: Request) -> Response:
        claims = jwt.decode(request.form["assertion"], verify=False)
        if claims["scope"] != SCOPE or self.revoked:
            return answer({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, 400)
        token = f"ya29.S3CRET-{uuid.uuid4().hex}"
        self._tokens.add(token)
        return answer({"access_token": token, "expires_in": "3599", "token_type": "Bearer"})

    def knows(self, request: Request) -> bool:
        """Says whether a request is signed in: by a token that was given, or by one that the key itself has signed."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        return not self.revoked and (token in self._tokens or token.startswith("eyJ"))
