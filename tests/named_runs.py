"""The complete settings in deploy/config."""

import tomllib
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "deploy" / "config"
NAMED_RUNS = sorted(path for path in FOLDER.glob("*.toml") if "run" in tomllib.loads(path.read_text(encoding="utf-8")))
"""Those of runs; the others are a fine-tuning's alone."""
