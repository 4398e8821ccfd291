"""The kserve SDK, which not every installation has, and which takes the command line for its own."""

import importlib.util
import sys

from nlp_pipeline.errors import UsageError


def import_kserve() -> None:
    """Imports kserve, so that later imports find it.

    Its module model_server reads sys.argv when it is imported, and ends the process where `--predict` stands there,
    which several of its own flags begin with.
    """
    if importlib.util.find_spec("kserve") is None:
        raise UsageError("kserve is not installed: pip install -c constraints.txt -e '.[deploy]'")
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        import kserve  # noqa: F401
    finally:
        sys.argv = arguments
