"""Start the page: settings -> catalog -> engine -> ui. Runs as is on a Space (CPU, GPU or ZeroGPU)."""

import logging
import os
import sys
from functools import partial

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import composer  # noqa: F401 -- before torch, which spaces may bring: see composer.threads

try:
    import spaces  # ZeroGPU wants to be imported before torch
except ImportError:
    spaces = None

from composer import Engine
from composer.spec import ComposerError
from composer.threads import apart
from composer.ui.launch import launch
from composer.ui.settings import VARIABLES, Settings


def main() -> int:
    """Serve the page; 2 with one line on stderr when something must be put right first."""
    if "--help" in sys.argv[1:]:
        print(__doc__, "\n\nEnvironment variables:")
        print("\n".join(f"  {name:<26}{help}" for name, help in VARIABLES.items()))
        return 0
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio asks itself whether it is up
    zero_gpu = spaces is not None and os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
    try:
        settings = Settings.from_env()
        weights = "int8" if settings.int8 else "same"
        load = partial(Engine.from_catalog, settings.catalog, settings.base, decode_weights=weights)
        engine = load() if zero_gpu else apart(load)
    except ComposerError as fault:
        print(fault, file=sys.stderr)
        return 2
    if settings.compiled and not zero_gpu:  # ZeroGPU forbids compiling
        engine.warm_up()
    launch(engine, settings, spaces.GPU(duration=30) if zero_gpu else None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
