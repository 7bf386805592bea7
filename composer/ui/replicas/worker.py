"""What a replica is inside: the engine and the page, sharing with its likes what they must have in common."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from composer.core.threads import run_in_short_lived_thread
from composer.ui.bases.opening import load_engine
from composer.ui.launch import serving
from composer.ui.replicas.health import check_decoding, check_page
from composer.ui.replicas.remembering import Memory, RememberedStates, RememberedTokens
from composer.ui.replicas.replica import Common
from composer.ui.replicas.routing import Member
from composer.ui.runners.batched import BatchedRunner
from composer.ui.settings import Settings


class Worker:
    """A page that is served at a free port of `host`, from when it is made to the end of the process."""

    def __init__(self, settings: Settings, host: str, common: Common, memory: Memory):
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)
        # Read by uvicorn: who may say for whom they ask.
        os.environ.setdefault("FORWARDED_ALLOW_IPS", f"127.0.0.1,{common.front}")
        settings = replace(settings, host=host, port=_free_port(host))
        engine = run_in_short_lived_thread(partial(load_engine, settings, settings.base, settings.compiled))
        self._open = ExitStack()
        self._server = self._open.enter_context(serving(engine, settings))
        self._share(common, memory)
        self.member = Member(secrets.token_hex(4), host, settings.port, os.getpid())

    def check(self) -> None:
        """Raises ComposerError where the replica has to be replaced."""
        runner = self._server.runner
        assert isinstance(runner, BatchedRunner)
        check_decoding(runner.scheduler)
        check_page(self.member.host, self.member.port)

    def end_texts(self) -> None:
        """End what is written with a sentence, and wait until its visitors have it."""
        # Closing more than the texts would take seconds, and the process ends.
        self._server.end_texts()

    def _share(self, common: Common, memory: Memory) -> None:
        """Have the page go on with what others of its kind have begun."""
        blocks, app, runner = self._server.blocks, self._server.blocks.app, self._server.runner
        blocks.app_id = common.app_id
        app.cookie_id, app.tokens = common.cookie_id, RememberedTokens(memory)
        app.state_holder = RememberedStates(blocks, memory, runner.added, runner.engine.base.spec.name)


def _free_port(host: str) -> int:
    with socket.socket() as free:
        free.bind((host, 0))
        return free.getsockname()[1]
