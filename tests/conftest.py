"""What every test runs with; the settings come before the first import of jax."""

import os
from pathlib import Path

from jaxtyping import install_import_hook

from tests import flags

ROOT = Path(__file__).resolve().parents[1]

os.environ["JAX_PLATFORMS"] = "cpu"
given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = f"{given} {flags.on_devices(8)}".strip()

# Paths of buckets go through gcsfs, in whatever order tests run (storage.prepare).
os.environ["EPATH_USE_TF"] = "false"

# Programs compiled once are read again the next time; a user has a folder of their own.
CACHE = ROOT / ".pytest_cache" / f"jax-{os.getuid()}"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Shapes and types in the package's annotations are checked here, and only here. As for
# type checkers, an int is good where a float is asked for (PEP 484).
install_import_hook(
    "vit_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)
