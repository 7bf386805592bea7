"""How OpenMP's threads wait is settled before torch is imported, unless the user settled it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from composer.core.threads import SPIN, SPIN_COUNT

SHOW = f"import json, os, sys; print(json.dumps([os.environ.get({SPIN!r}), 'torch' in sys.modules]))"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, SPIN_COUNT),
        ({SPIN: "77"}, "77"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, None),
    ],
)
@pytest.mark.parametrize("door", ["composer", "composer.cli.main", "app; app.main(['--port', 'no'])"])
def test_every_door_has_the_threads_spin_briefly_before_torch_is_there(given, found, door):
    env = {name: value for name, value in os.environ.items() if name not in (SPIN, "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", f"import {door}; {SHOW}"],
        env=env | given,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [found, False]


def test_a_torch_that_was_there_before_is_noticed():
    show = "from composer.core.threads import spins_for_long; print(spins_for_long())"
    env = {name: value for name, value in os.environ.items() if name not in (SPIN, "OMP_WAIT_POLICY")}
    for first, given, late in (("torch", {}, True), ("json", {}, False), ("torch", {SPIN: "9"}, False)):
        done = subprocess.run(
            [sys.executable, "-c", f"import {first}; import composer; {show}"],
            env=env | given,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == str(late)
