"""How a Service of the cluster is asked from outside of it: through the API server, with the kubeconfig's rights."""

import json

import httpx

from nlp_pipeline.deploy.cluster import api, may
from nlp_pipeline.errors import UsageError

MISSING_RIGHT = "through the API server, which needs the right to create services/proxy in namespace"


def check_proxy(namespace: str) -> None:
    """Raises a UsageError where it is known that this account may not ask a namespace's Services so."""
    if not may(namespace=namespace, verb="create", resource="services", subresource="proxy"):
        raise UsageError(f"endpoints are asked {MISSING_RIGHT} {namespace}: get it, or set gateway")


class ServiceProxy(httpx.BaseTransport):
    """Takes httpx's requests to http://SERVICE.NAMESPACE/... to the API server, which hands them on.

    What signs in at an endpoint stays here: the API server has a sign-in of its own.
    """

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a POST with a JSON document, and returns the Service's answer."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        name, _, namespace = request.url.host.partition(".")
        where = f"/api/v1/namespaces/{namespace}/services/{name}:80/proxy{request.url.path}"
        client, headers = api("CoreV1Api").api_client, {"Content-Type": "application/json"}
        try:
            answer = client.call_api(
                where,
                "POST",
                header_params=headers,
                body=json.loads(request.read()),
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=60,
            )
            return httpx.Response(200, content=answer.data)
        except HTTPError as error:
            raise httpx.ConnectError(f"the cluster can't be reached: {error}") from None
        except ApiException as error:
            body = str(error.body or "")
            if error.status == 403 and '"kind":"Status"' in body.replace(" ", ""):
                raise UsageError(
                    f"{request.url.host} is asked {MISSING_RIGHT} {namespace}: get it, or deploy by the pipeline"
                ) from None
            return httpx.Response(error.status or 503, text=body)
