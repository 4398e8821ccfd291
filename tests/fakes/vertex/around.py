"""Google's other services that are asked: Resource Manager, Service Usage, IAM, Storage, Artifact Registry, Logging."""

import base64
import hashlib
import json
import re
from typing import Any
from urllib.parse import unquote

import google_crc32c

from tests.fakes.vertex.rest import Json, RefusedError, Request, Response


class Around:
    """What is around Vertex AI in a project; the user's permissions are `granted` on whatever.

    Objects stand by `bucket/name`: those that are `composed` have no MD5, those that are `spoilt` come otherwise than
    they are. Quotas are limits by `region/metric`, where a region "" is any; accounts tell whether each is disabled;
    tags are images as `place/project/repository/image:tag`; logs are lines by a job's id.
    """

    def __init__(self, project: str, number: str) -> None:
        self.project, self.number, self.state = project, number, "ACTIVE"
        self.granted: set[str] = set()
        self.enabled = {"aiplatform", "storage", "artifactregistry", "iam", "compute"}
        self.buckets: dict[str, str] = {}
        self.objects: dict[str, bytes] = {}
        self.composed: set[str] = set()
        self.spoilt: set[str] = set()
        self.accounts: dict[str, bool] = {}
        self.quotas: dict[str, int] = {}
        self.tags: set[str] = set()
        self.logs: dict[str, list[str]] = {}

    def need(self, permission: str) -> None:
        if permission and permission not in self.granted:
            raise RefusedError(403, f"Permission '{permission}' denied on resource (or it may not exist).")

    def get_project(self, request: Request) -> Json:
        return {"name": f"projects/{self.number}", "projectId": self.project, "state": self.state}

    def test_permissions(self, request: Request, **_: str) -> Json:
        asked = json.loads(request.body)["permissions"] if request.body else [value for _, value in request.query]
        return {"permissions": [item for item in asked if item in self.granted]}

    def list_services(self, request: Request) -> Json:
        names = [value.rpartition("/")[2] for name, value in request.query if name == "names"]
        states = {name: "ENABLED" if name.partition(".")[0] in self.enabled else "DISABLED" for name in names}
        return {"services": [{"name": f"projects/1/services/{name}", "state": state} for name, state in states.items()]}

    def get_quota(self, request: Request, metric: str) -> Json:
        metric = unquote(metric).rpartition("/")[2]
        buckets = []
        for name, limit in self.quotas.items():
            region, _, known = name.partition("/")
            if known == metric:
                dimensions = {"dimensions": {"region": region}} if region else {}
                buckets.append({"effectiveLimit": str(limit), "defaultLimit": "0", **dimensions})
        if not buckets:
            raise RefusedError(404, f"Quota metric {metric} is not found.")
        return {"consumerQuotaLimits": [{"quotaBuckets": buckets}]}

    def get_account(self, request: Request, email: str) -> Json:
        if email not in self.accounts:
            raise RefusedError(404, f"Unknown service account: {email}")
        return {"email": email, **({"disabled": True} if self.accounts[email] else {})}

    def get_bucket(self, request: Request, bucket: str) -> Json:
        if bucket not in self.buckets:
            raise RefusedError(404, "The specified bucket does not exist.")
        self.need("storage.buckets.get")
        return {"name": bucket, "location": self.buckets[bucket], "locationType": "region"}

    def list_objects(self, request: Request, bucket: str) -> Json:
        """Lists what lies in a bucket below a prefix, two at a time."""
        query = dict(request.query)
        place, start = f"{bucket}/{query.get('prefix', '')}", int(query.get("pageToken", 0))
        result = sorted(name for name in self.objects if name.startswith(place))
        items: list[Json] = []
        for full in result[start : start + 2]:
            name, content = full.partition("/")[2], self.objects[full]
            about = {"name": name, "bucket": bucket, "size": str(len(content)), "generation": "7"}
            digest = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
            # What was put together of others has no MD5.
            items.append(about if name in self.composed else {**about, "md5Hash": digest})
        return {"items": items, **({"nextPageToken": str(start + 2)} if start + 2 < len(result) else {})}

    def read_object(self, request: Request, bucket: str, name: str) -> Response:
        full = f"{bucket}/{unquote(name)}"
        content = self.objects[full]
        checksum = base64.b64encode(google_crc32c.Checksum(content).digest()).decode()
        sent = content[:-1] + b"x" if full in self.spoilt else content
        return Response(200, sent, [("X-Goog-Hash", f"crc32c={checksum}")])

    def get_image(self, request: Request, place: str, owner: str, repository: str, rest: str) -> Json:
        image, _, version = rest.split("/")
        full = f"{place}/{owner}/{repository}/{unquote(image)}:{version}"
        if full not in self.tags:
            raise RefusedError(404, "Requested entity was not found.")
        return {"name": full}

    def list_entries(self, request: Request) -> Json:
        """Gives the lines that a custom job printed, the last one first."""
        asked: Any = json.loads(request.body)
        parts = re.fullmatch(r'resource.type="ml_job" AND resource.labels.job_id="([\w-]+)"', asked["filter"])
        if not parts or asked["orderBy"] != "timestamp desc" or asked["resourceNames"] != [f"projects/{self.project}"]:
            raise RefusedError(400, f"Unparseable filter: {asked}")
        lines = self.logs.get(parts[1], [])[::-1][: asked["pageSize"]]
        kinds = ("textPayload", "jsonPayload")
        return {"entries": [{kinds[at % 2]: {"message": line} if at % 2 else line} for at, line in enumerate(lines)]}
