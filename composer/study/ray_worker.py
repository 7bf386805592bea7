"""evaluation.generation on Ray Data: jobs go to actors that each hold an engine, results come back in turn.

Ray is an optional extra, imported where it is used. Records cross as JSON text, never as objects.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain

from composer.core.composition import Sampling
from composer.core.errors import ComposerError
from composer.evaluation.generation import GeneratedText, GenerationJob, Score, generate_texts
from composer.study.design.environment import StudyEnvironment

# Texts an actor takes at a time, in batches of the engine: enough that one which drains costs little.
BATCHES = 8
KINDS = {kind.__name__: kind for kind in (GenerationJob, GeneratedText, Score)}


@dataclass(frozen=True)
class Cluster:
    """Where Ray runs and with how many workers."""

    # Of a running cluster; None starts Ray on this machine.
    address: str | None = None
    # Actors, each with an engine, `cpus` cores and `gpus` GPUs.
    workers: int = 1
    cpus: int = 1
    gpus: float = 0


class Worker:
    """Runs in an actor. Its machine has the project, the catalog and the base at the same paths."""

    def __init__(self, environment: dict, sampling: dict, slots: int):
        self._engine = StudyEnvironment(**environment).engine()
        self._sampling, self._slots = Sampling(**sampling), slots

    def __call__(self, batch: dict) -> Iterator[dict]:
        todo = [_read(line) for line in batch["line"]]
        jobs = [each for each in todo if isinstance(each, GenerationJob)]
        unscored = [each for each in todo if isinstance(each, GeneratedText)]
        for result in generate_texts(self._engine, jobs, unscored, self._sampling, self._slots):
            yield {"line": [_write(result)]}


def ray_work(
    cluster: Cluster,
    environment: StudyEnvironment,
    jobs: Sequence[GenerationJob],
    unscored: Sequence[GeneratedText],
    sampling: Sampling,
    slots: int,
) -> Iterator[GeneratedText | Score]:
    """generate_texts on Ray. Raises ComposerError without Ray and without a reachable cluster.

    An interrupted run loses what the actors were working on, up to a few batches each.
    """
    if not (jobs or unscored):
        return
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        _start(ray, cluster)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        lines = [{"line": _write(each)} for each in chain(jobs, unscored)]
        size = min(BATCHES * slots, -(-len(lines) // cluster.workers))
        done = ray.data.from_items(lines, override_num_blocks=-(-len(lines) // size)).map_batches(
            Worker,
            fn_constructor_args=(asdict(environment.resolved()), asdict(sampling), slots),
            batch_size=size,
            compute=ray.data.ActorPoolStrategy(size=cluster.workers),
            num_cpus=cluster.cpus,
            num_gpus=cluster.gpus,
        )
        for row in done.iter_rows():
            yield _read(row["line"])
    except ray.exceptions.RayError as fault:
        raise ComposerError(
            "A ray worker failed; its log says why. See that the project, the catalog and the base are at "
            "the same place on every machine, and run again: what is finished is kept."
        ) from fault
    finally:
        if started:
            ray.shutdown()


def _ray():
    try:
        import ray
        import ray.data
    except ImportError as fault:
        raise ComposerError('--engine ray needs Ray; install it with: pip install "ray[data]"') from fault
    return ray


def _start(ray, cluster: Cluster) -> None:
    settings = {} if cluster.address else {"num_cpus": cluster.workers * cluster.cpus + 1}
    try:
        _check_reachable(cluster.address)
        ray.init(
            address=cluster.address or "local",
            include_dashboard=False if not cluster.address else None,
            log_to_driver=False,
            logging_level="ERROR",
            **settings,
        )
    except (OSError, ValueError, RuntimeError) as fault:
        raise ComposerError(
            "That ray cluster cannot be reached; check --ray-address, or leave it out to use this machine."
        ) from fault


def _check_reachable(address: str | None) -> None:
    """Raises OSError where nothing answers at host:port; Ray itself would retry for minutes."""
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _write(record: GenerationJob | GeneratedText | Score) -> str:
    return json.dumps([type(record).__name__, asdict(record)])


def _read(line: str) -> GenerationJob | GeneratedText | Score:
    kind, fields = json.loads(line)
    return KINDS[kind](**fields)
