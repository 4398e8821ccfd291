"""The entry point: `python pipeline_v2.py --help`."""

import sys

try:
    from nlp_pipeline.cli import main
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"error: {missing.name} is not installed for {sys.executable}: run make setup, and then .venv/bin/python "
        "pipeline_v2.py; or pip install -c constraints.txt -e .\n"
    )
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main())
