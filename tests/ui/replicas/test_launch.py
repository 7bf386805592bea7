"""What must be put right before replicas can start; and that one engine needs none of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

import app
from composer.core.errors import ComposerError
from composer.ui.replicas import launch
from composer.ui.replicas.directory import Directory
from composer.ui.replicas.routing import Member
from composer.ui.settings import VARIABLES, Settings, parse

ROOT = Path(__file__).parents[3]
MEMBER = Member("a", "127.0.0.1", 1, 1)


def test_help_tells_of_replicas_and_one_is_the_default(capsys):
    assert app.main(["--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "--replicas" in told and "[COMPOSER_REPLICAS]" in told
    assert Settings().replicas == parse([], {})[0].replicas == 1


@pytest.mark.parametrize("text", ["0", "65", "two", "1.5"])
def test_a_wrong_number_of_replicas_is_one_line(text, capsys, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert app.main(["--replicas", text]) == 2
    assert "--replicas must be a number between 1 and 64" in capsys.readouterr().err


def test_one_engine_needs_nothing_of_it():
    code = (
        "import app, composer.ui.launch, sys; "
        "sys.exit(any(each in sys.modules for each in ('ray', 'aiohttp', 'composer.ui.replicas')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=300).returncode == 0


@pytest.mark.parametrize("name", ["ray", "ray.serve", "aiohttp"])
def test_without_ray_serve_the_sentence_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ComposerError) as told:
        launch.launch_replicas(Settings(replicas=2))
    assert 'pip install "ray[serve]' in str(told.value)


def test_a_wrong_base_is_said_before_ray_is_started(monkeypatch):
    monkeypatch.setattr(launch, "_ray", lambda: pytest.fail("it was started"))
    with pytest.raises(ComposerError, match="no-such-base"):
        launch.launch_replicas(Settings(replicas=2, base="no-such-base"))
    with pytest.raises(ComposerError, match="--replicas 1"):
        launch.launch_replicas(Settings(replicas=2), zero_gpu=True)


def test_cores_are_shared_and_cards_are_not():
    share = launch._share_of
    assert share({"CPU": 8.0}, 2) == {"num_cpus": 4.0, "num_gpus": 0.0}
    assert share({"CPU": 8.0}, 3) == {"num_cpus": 2.0, "num_gpus": 0.0}
    assert share({"CPU": 2.0}, 4) == {"num_cpus": 0.5, "num_gpus": 0.0}
    assert share({"CPU": 8.0, "GPU": 4.0}, 2) == {"num_cpus": 4.0, "num_gpus": 1.0}
    with pytest.raises(ComposerError, match="--replicas 1"):
        share({"CPU": 8.0, "GPU": 1.0}, 2)


# --- the directory -------------------------------------------------------------------------------


def test_a_replica_that_drains_waits_until_it_is_released():
    async def run():
        directory = Directory()
        await directory.join(MEMBER)
        version, members = await directory.members(-1, 0)
        assert members == [MEMBER]
        await directory.drain("a")
        version, [draining] = await directory.members(version, 1)
        assert draining.draining
        waiting = asyncio.create_task(directory.wait_for_release("a", 60))
        await directory.release("a")
        await asyncio.wait_for(waiting, 10)
        await directory.join(MEMBER)  # a last health check
        assert (await directory.members(version, 0))[1] == []

    asyncio.run(run())


@pytest.mark.parametrize("ended", [True, False])
def test_it_waits_no_longer_than_it_may_nor_when_the_server_ends(ended):
    async def run():
        directory = Directory()
        if ended:
            await directory.close()
        await asyncio.wait_for(directory.wait_for_release("a", 60 if ended else 0.01), 10)

    asyncio.run(run())


def test_what_is_remembered_has_a_bound(monkeypatch):
    monkeypatch.setattr("composer.ui.replicas.directory.MOST_REMEMBERED", 3)

    async def run():
        directory = Directory()
        for each in "abc":
            await directory.remember(each, each)
        await directory.recall("a")
        await directory.remember("d", "d")
        assert [await directory.recall(each) for each in "abcd"] == ["a", None, "c", "d"]
        await directory.forget("a")
        assert await directory.recall("a") is None

    asyncio.run(run())
