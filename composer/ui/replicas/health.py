"""Whether a replica works: its decoding thread does what it is given, and its page answers."""

from __future__ import annotations

from concurrent.futures import TimeoutError as Late
from http.client import HTTPConnection, HTTPException

from composer.core.errors import ComposerError
from composer.engine.scheduler import Scheduler

# Between two tasks of the decoding thread lies one pass of the model, seconds on a slow machine.
DECODING_SECONDS, PAGE_SECONDS = 30.0, 10.0
APP_ID = "/gradio_api/app_id"


def check_decoding(scheduler: Scheduler, seconds: float = DECODING_SECONDS) -> None:
    """Raise ComposerError where the thread that decodes has died or hangs."""
    future = scheduler.submit_task(lambda: None)
    try:
        future.result(seconds)
    except Late:
        future.cancel()
        raise ComposerError(f"The decoding thread has done nothing for {seconds:g} seconds.") from None


def check_page(host: str, port: int, seconds: float = PAGE_SECONDS) -> None:
    """Raise ComposerError where the page does not answer."""
    connection = HTTPConnection(host, port, timeout=seconds)
    try:
        connection.request("GET", APP_ID)
        status = connection.getresponse().status
    except (OSError, HTTPException) as fault:
        raise ComposerError(f"The page does not answer ({type(fault).__name__}).") from fault
    finally:
        connection.close()
    if status != 200:
        raise ComposerError(f"The page answers with status {status}.")
