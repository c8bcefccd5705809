"""Show images after the pipeline: ``python tools/browse_dataset.py --help``. The same as ``detkit browse-dataset``."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))   # so that it runs from a checkout that is not installed

from detkit.cli import run_tool   # noqa: E402

if __name__ == '__main__':
    run_tool('browse-dataset')
