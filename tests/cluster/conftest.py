"""A real cluster where one is named, and the emulated one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.emulated import emulated_site
from tests.cluster.real import RealSite
from tests.cluster.site import Site

VARIABLE = "NLP_PIPELINE_TEST_CLUSTER"
on_a_cluster = pytest.mark.skipif(os.environ.get(VARIABLE) != "1", reason=f"{VARIABLE} is not 1: see make cluster-test")
KINDS = [
    pytest.param("emulated", marks=pytest.mark.slow),
    pytest.param("real", marks=on_a_cluster),
]


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A namespace, which is empty again when the test ends, however it ends."""
    if request.param == "emulated":
        with emulated_site(tmp_path, request.getfixturevalue("encoder")) as emulated:
            yield emulated
        return
    real = RealSite(tmp_path, dict(os.environ))
    try:
        yield real
    finally:
        real.clean()
