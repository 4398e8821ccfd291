"""The doctor's checks of the pipeline's parameters, of its compiled file, and of images."""

import re
from urllib.parse import quote

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.vertex.doctor_findings import Findings, answered

REGISTRY = re.compile(
    r"(?P<place>[a-z0-9-]+)-docker\.pkg\.dev/(?P<project>[^/]+)/(?P<repository>[^/]+)/(?P<image>[^:@]+)"
    r"(?::(?P<tag>[^@]+))?(?:@(?P<digest>sha256:[0-9a-f]+))?"
)


def check_values(found: Findings) -> None:
    """Looks whether a run can begin with the parameters."""
    from nlp_pipeline.vertex.submitting import check_parameters

    if "train_data" not in found.given:
        found.add("parameters", None, "a run needs --set train_data=gs://bucket/reviews.csv as well")
        return
    try:
        check_parameters(found.given)
    except UsageError as error:
        found.add("parameters", False, str(error))
        return
    found.add("parameters", True, f"{len(found.given)} set, {len(found.values) - len(found.given)} by default")


def check_compiled_file(found: Findings) -> None:
    """Looks whether the compiled file, which the console takes, is that of the code; --submit compiles anew."""
    from nlp_pipeline.pipeline.compiling import check_compiled, compiled_path

    path = compiled_path("vertex")
    if not path.is_file():
        found.add("compiled file", None, f"{path} is not here; --submit does without", required=False)
        return
    try:
        stale = check_compiled(path, None, "vertex")
    except PipelineError as error:
        found.add("compiled file", None, str(error), required=False)
        return
    detail = f"{path} is {'stale' if stale else 'current'}"
    found.add("compiled file", not stale, detail, "--compile writes it anew" if stale else "", required=False)


def check_images(found: Findings) -> None:
    """Looks for the image of the steps, and for the one that serves."""
    if image := found.settings.image:
        check_image(found, "image", image)
    else:
        found.add("image", True, "none is set: steps install their packages when they start, which takes minutes")
    if not found.values.get("deploy"):
        found.add("serving image", None, "not needed with deploy=false", required=False)
    elif image := str(found.values.get("serving_image") or ""):
        check_image(found, "serving image", image)
    else:
        remedy = "build the Dockerfile's target torchserve, push it, and --set serving_image=NAME"
        found.add("serving image", False, "deploy is true, and serving_image is not set", remedy)


def check_image(found: Findings, name: str, image: str) -> None:
    """Looks for an image, where its registry is Google's.

    Args:
        found: The findings.
        name: What the image is for.
        image: The image.
    """
    connection, parts = found.connection, REGISTRY.fullmatch(image)
    if connection is None or parts is None:
        why = "not signed in" if parts else "not in Artifact Registry; whether it can be pulled shows in a run"
        found.add(name, None, f"{image}: {why}")
        return
    repository = f"projects/{parts['project']}/locations/{parts['place']}/repositories/{parts['repository']}"
    version = f"versions/{parts['digest']}" if parts["digest"] else f"tags/{parts['tag'] or 'latest'}"
    path = f"/v1/{repository}/packages/{quote(parts['image'], safe='')}/{version}"
    ok, told = answered(connection.ask, f"looking for {image}", "artifactregistry", path)
    found.add(name, ok, f"{image} is there" if ok else told, "" if ok is not False else f"docker push {image}")
