"""The doctor's checks of the bucket, of the runs' service account, and of quotas."""

import re
from urllib.parse import quote

from nlp_pipeline.settings import PREFIX
from nlp_pipeline.vertex.connection import Connection
from nlp_pipeline.vertex.doctor_findings import NOT_SIGNED_IN, Findings, answered

WRITING = ("storage.objects.create", "storage.objects.get", "storage.objects.list", "storage.objects.delete")
# Multi-regions, by how the names of the regions in them begin.
MULTI_REGIONS = {"US": "us-", "EU": "europe-", "ASIA": "asia-"}
# Machines of these families share one quota for CPUs; each other family has its own.
COMMON_FAMILIES = ("n1", "e2")


def check_bucket(found: Findings) -> None:
    """Looks for the bucket, where it is, and whether the user may write there."""
    connection, bucket = found.connection, found.settings.bucket
    names = ("bucket", "bucket's region", "right to write")
    why = NOT_SIGNED_IN if connection is None else "" if bucket else "no bucket is set"
    if connection is None or why:
        remedy = "" if connection is None else f"give --bucket gs://NAME, or set {PREFIX}BUCKET"
        found.add("bucket", None if connection is None else False, why, remedy)
        for name in names[1:]:
            found.add(name, None, why, required=name != "bucket's region")
        return
    name = bucket.removeprefix("gs://").partition("/")[0]
    path, region = f"/storage/v1/b/{quote(name)}", connection.region
    ok, told = answered(connection.ask, f"looking for bucket {name}", "storage", path)
    make = f"gcloud storage buckets create gs://{name} --project {connection.project} --location {region}"
    found.add("bucket", ok, f"gs://{name} is there" if ok else told, make if ok is False else "")
    if not ok:
        found.add("bucket's region", None, "the bucket can't be read", required=False)
    else:
        location = str(told.get("location", ""))
        near = location.lower() == region or region.startswith(MULTI_REGIONS.get(location, "nowhere"))
        far = "" if near else ": what runs read and write crosses regions, which costs time and money"
        found.add("bucket's region", near, f"{location}, and runs are in {region}{far}", required=False)
    if ok is False:
        found.add("right to write", None, "there is no bucket")
    else:
        check_writing(found, connection, name)


def check_writing(found: Findings, connection: Connection, name: str) -> None:
    """Looks whether the user may write to the bucket; the runs' own account is another, mostly."""
    path = f"/storage/v1/b/{quote(name)}/iam/testPermissions"
    ok, told = answered(connection.ask, "asking what is allowed", "storage", path, permissions=list(WRITING))
    if not ok:
        found.add("right to write", None, told)
        return
    who = connection.who or "this user"
    missing = [one for one in WRITING if one not in told.get("permissions", [])]
    account = found.settings.service_account
    if who == account:
        remedy = f"grant it roles/storage.objectAdmin on gs://{name}"
        detail = f"{who} lacks {', '.join(missing)}" if missing else f"{who}, which runs run as, may"
        found.add("right to write", not missing, detail, remedy if missing else "")
    else:
        may = f"{who} may{' not' if missing else ''}"
        account = account or "the project's default account"
        found.add("right to write", None, f"{may}; runs run as {account}, of which it is not known")


def check_account(found: Findings) -> None:
    """Looks for the service account that runs run as, and whether the user may let them."""
    connection = found.connection
    default = f"{found.number}-compute@developer.gserviceaccount.com" if found.number else ""
    account = found.settings.service_account or default
    if connection is None or not account:
        found.add("service account", None, NOT_SIGNED_IN if connection is None else "the project's number is not known")
        return
    path = f"/v1/projects/-/serviceAccounts/{quote(account, safe='@')}"
    ok, told = answered(connection.ask, "looking for the service account", "iam", path)
    shown = account if found.settings.service_account else f"{account}, the project's default,"
    if ok is False or (ok and told.get("disabled")):
        remedy = (
            "give another with --service-account" if ok is False else f"gcloud iam service-accounts enable {account}"
        )
        found.add("service account", False, f"{shown} is {'disabled' if ok else 'not there'}", remedy)
        return
    body = {"permissions": ["iam.serviceAccounts.actAs"]}
    may, answer = answered(connection.ask, "asking what is allowed", "iam", f"{path}:testIamPermissions", body=body)
    if not may:
        found.add("service account", None, f"{shown} {'is there' if ok else 'may be there'}; {answer}")
    elif answer.get("permissions"):
        found.add("service account", True, f"runs may run as {shown.rstrip(',')}")
    else:
        grant = f"gcloud iam service-accounts add-iam-policy-binding {account} --role=roles/iam.serviceAccountUser"
        remedy = f"{grant} --member=user:YOU"
        found.add(
            "service account", False, f"{connection.who or 'this user'} may not let runs run as {account}", remedy
        )


def needed_quotas(found: Findings) -> list[tuple[str, int]]:
    """Returns which quotas a run needs, each with how much of it."""
    uses = [("training", "train", 1)]
    if found.values.get("deploy"):
        uses.append(("serving", "serving", max(1, int(found.values.get("min_replicas") or 1))))
    needed = []
    for use, prefix, machines in uses:
        if family := re.fullmatch(r"([a-z0-9]+)-[a-z]+-([0-9]+)", str(found.values.get(f"{prefix}_machine_type"))):
            own = "" if family[1] in COMMON_FAMILIES else f"{family[1]}_"
            needed.append((f"custom_model_{use}_{own}cpus", machines * int(family[2])))
        kind, count = str(found.values.get(f"{prefix}_accelerator") or ""), int(found.values.get(f"{prefix}_gpus") or 0)
        if kind and count:
            name = kind.lower().replace("_tesla_", "_")
            needed.append((f"custom_model_{use}_{name}_gpus", machines * count))
    return needed


def check_quotas(found: Findings) -> None:
    """Looks whether the project's quotas are as large as what one run needs; what others use of them is not told."""
    connection = found.connection
    if connection is None:
        found.add("quota", None, NOT_SIGNED_IN)
        return
    for metric, count in needed_quotas(found):
        name = f"quota {metric.removeprefix('custom_model_').replace('_', ' ')}"
        limit, why = limit_of(connection, metric)
        if limit is None:
            found.add(name, None, f"not known: {why}", required=False)
        elif 0 <= limit < count:
            remedy = f"ask for more: https://console.cloud.google.com/iam-admin/quotas?project={connection.project}"
            found.add(name, False, f"{limit} in {connection.region}, and a run needs {count}", remedy)
        else:
            shown = "no limit" if limit < 0 else str(limit)
            found.add(name, True, f"{shown} in {connection.region}, a run needs {count}; what is in use is not told")


def limit_of(connection: Connection, metric: str) -> tuple[int | None, str]:
    """Returns a quota's limit in the region, -1 where there is none; or None, and why it is not known.

    Args:
        connection: The connection.
        metric: The quota's metric, without the API's name.
    """
    service = "aiplatform.googleapis.com"
    path = f"/v1beta1/projects/{connection.project}/services/{service}/consumerQuotaMetrics/{service}%2F{metric}"
    ok, told = answered(connection.ask, f"asking for quota {metric}", "serviceusage", path)
    if not ok:
        return None, told
    buckets = [bucket for limit in told.get("consumerQuotaLimits", []) for bucket in limit.get("quotaBuckets", [])]
    by_region = {bucket.get("dimensions", {}).get("region", ""): bucket for bucket in buckets}
    bucket = by_region.get(connection.region) or by_region.get("")
    if bucket is None or "effectiveLimit" not in bucket:
        return None, f"Google tells no limit for {connection.region}"
    return int(bucket["effectiveLimit"]), ""
