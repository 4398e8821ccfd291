"""The entry point: `python pipeline_v2.py --help`."""

import sys

from nlp_pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main())
