"""Start the page: settings -> catalog -> engine -> ui. Runs as is on a Space (CPU, GPU or ZeroGPU)."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from composer.ui.settings import Settings

INTERRUPTED, TERMINATED = 130, 143
# Seconds from SIGTERM; who ends a server kills it after 10.
LAST_MOMENT = 9.0


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page; 2 with one line on stderr when something must be put right first."""
    # All of the project is imported late: in time for Ctrl+C, and torch only after the options were read.
    from composer.core.fault_messages import sentence
    from composer.core.shell import open_closed, tell
    from composer.ui.address import check_address
    from composer.ui.settings import parse

    open_closed()
    verbose = False
    try:
        settings, verbose = parse(sys.argv[1:] if argv is None else argv)
        check_address(settings.host, settings.port)
        _serve(settings, verbose)
        return 0
    except SystemExit as done:  # --help, and SIGTERM
        return _flushed(int(done.code or 0))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as fault:
        if verbose:
            logging.getLogger("app").error("the start failed", exc_info=fault)
        tell(sentence(fault, "Start again with --verbose to see where.", paths=True))
        return 2


def _serve(settings: "Settings", verbose: bool) -> None:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    if verbose:
        logging.getLogger("composer").setLevel(logging.DEBUG)
    # Gradio asks itself whether it is up, and the Hub's client would tell of every file.
    for name in ("httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, _terminate)
    try:
        import spaces  # ZeroGPU wants to be imported before torch
    except ImportError:
        spaces = None

    zero_gpu = spaces is not None and os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
    if settings.replicas > 1:
        from composer.ui.replicas.launch import launch_replicas

        launch_replicas(settings, zero_gpu)
        return

    from composer.core.threads import run_in_short_lived_thread
    from composer.ui.bases.opening import load_engine
    from composer.ui.launch import launch

    # ZeroGPU forbids compiling.
    load = partial(load_engine, settings, settings.base, settings.compiled and not zero_gpu)
    engine = load() if zero_gpu else run_in_short_lived_thread(load)
    launch(engine, settings, spaces.GPU(duration=30) if zero_gpu else None)


def _terminate(*_) -> None:
    # Texts have their sentence long before; what may not end is a thread that loads or computes.
    last = threading.Timer(LAST_MOMENT, _leave)
    last.daemon = True
    last.start()
    raise SystemExit(TERMINATED)


def _leave() -> None:
    logging.getLogger("app").warning("the server ends now, although a part of it still works")
    os._exit(TERMINATED)


def _flushed(code: int) -> int:
    from composer.core.fault_messages import sentence
    from composer.core.shell import flush, tell

    fault = flush(sys.stdout)
    if fault is None:
        return code
    tell(sentence(fault, ""))
    return code or 2


if __name__ == "__main__":
    try:
        code = main()
    except KeyboardInterrupt:  # before or after main could see to it
        code = INTERRUPTED
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    # At once: Python would wait for threads that load or compile, and a second Ctrl+C would frighten.
    os._exit(code)
