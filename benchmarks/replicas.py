"""What `app.py --replicas N` costs and brings: texts straight from one replica, and through all's address.

    python -m benchmarks.replicas [--replicas 2] [--tokens 200] [--rounds 12]

The two ways are measured in turns, so that whatever else the machine does slows both. CPU seconds are those
of the front and of the replica together; others' work hardly changes them. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter

import psutil
from gradio_client import Client

from composer.core.errors import ComposerError

ROOT = Path(__file__).parents[1]
PROMPT = "The train was late again, and"
MEMBER = re.compile(r"replica (\w+) \(process (\d+)\) is at (\S+:\d+)")
READY = re.compile(r"The page is at (http\S+)/ ")
# Seconds for Ray and the replicas to start on a loaded machine.
PATIENCE = 400


@dataclass(frozen=True)
class Replicas:
    """A running server."""

    address: str
    log: Path
    process: subprocess.Popen

    @property
    def members(self) -> dict[str, tuple[int, str]]:
        """Process and address of every replica that there has been, by its key, the newest last."""
        found = MEMBER.findall(self.log.read_text("utf-8", "replace"))
        return {key: (int(pid), f"http://{place}") for key, pid, place in found}


@contextmanager
def replicas(count: int, *options: str) -> Iterator[Replicas]:
    """`app.py --replicas` on a free port, until the end of the block. Raises ComposerError with the end of
    its log where it does not start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [sys.executable, "app.py", "--replicas", str(count), "--port", str(port), *options]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        with path.open("w") as log:
            process = subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log)
        server = Replicas(f"http://127.0.0.1:{port}", path, process)
        try:
            if not wait_for(server, lambda: READY.search(path.read_text("utf-8", "replace"))):
                raise ComposerError(
                    f"The replicas did not start:\n{path.read_text('utf-8', 'replace')[-3000:]}"
                )
            wait_for(server, lambda: len(server.members) >= count)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(server: Replicas, condition, seconds: float = PATIENCE) -> bool:
    """Whether the condition holds before the time is over or the server ends."""
    deadline = monotonic() + seconds
    while not condition():
        if monotonic() > deadline or server.process.poll() is not None:
            return False
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(timeout=0.1)
    return True


def seconds_of(client: Client, tokens: int, seed: int) -> float:
    """For one text, from asking to its last token."""
    begun = perf_counter()
    client.predict(PROMPT, {}, max_new_tokens=tokens, temperature=0, seed=seed, api_name="/generate")
    return perf_counter() - begun


def cpu_seconds(*processes: int) -> float:
    """What these have used so far, all together."""
    times = [psutil.Process(each).cpu_times() for each in processes]
    return sum(each.user + each.system for each in times)


def replica_of(server: Replicas, client: Client) -> str:
    """The key of this visitor's replica: the one that works while they have a text written."""
    before = {key: cpu_seconds(process) for key, (process, _) in server.members.items()}
    seconds_of(client, 50, 0)
    return max(before, key=lambda key: cpu_seconds(server.members[key][0]) - before[key])


def overhead(server: Replicas, key: str, front: Client, tokens: int, rounds: int) -> dict[str, float]:
    """Medians of a text's seconds straight and through the front, and of their ratios, less 1.

    key: the replica of `front`.
    """
    replica, place = server.members[key]
    direct = Client(place, verbose=False)
    spent: dict[Client, list[tuple[float, float]]] = {direct: [], front: []}
    for each in range(rounds):
        for way in (direct, front) if each % 2 else (front, direct):
            begun = cpu_seconds(server.process.pid, replica)
            seconds = seconds_of(way, tokens, each)
            spent[way].append((seconds, cpu_seconds(server.process.pid, replica) - begun))
    both = list(zip(spent[direct], spent[front], strict=True))
    wall = [(straight[0], through[0]) for straight, through in both]
    cpu = [(straight[1], through[1]) for straight, through in both]
    return _compared("", wall) | _compared("CPU ", cpu)


def _compared(kind: str, pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """pairs: what each text took straight and through the front."""
    return {
        f"direct {kind}seconds": median(direct for direct, _ in pairs),
        f"front {kind}seconds": median(front for _, front in pairs),
        f"{kind}overhead": median(front / direct for direct, front in pairs) - 1,
    }


def texts_a_second(clients: Sequence[Client], tokens: int, rounds: int) -> float:
    """Of all clients together, each asking for one text after the other."""

    def ask(client: Client) -> None:
        for each in range(rounds):
            seconds_of(client, tokens, each)

    begun = perf_counter()
    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(ask, clients))
    return len(clients) * rounds / (perf_counter() - begun)


def measure(server: Replicas, tokens: int, rounds: int) -> dict[str, object]:
    """Overhead of the front, and what all replicas do beside one."""
    # A visitor is at one replica: so many that each replica has some.
    crowd = [Client(server.address, verbose=False) for _ in range(2 * len(server.members))]
    key = replica_of(server, crowd[0])
    _, place = server.members[key]
    result: dict[str, object] = overhead(server, key, crowd[0], tokens, rounds)
    alone = [Client(place, verbose=False) for _ in crowd]
    rates = [(texts_a_second(alone, tokens, 1), texts_a_second(crowd, tokens, 1)) for _ in range(rounds // 2)]
    one, several = (median(rate) for rate in zip(*rates, strict=True))
    return result | {"one replica texts/s": one, "all replicas texts/s": several, "gain": several / one}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replicas", description=__doc__)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("options", nargs="*", help="for app.py, after --")
    given = parser.parse_args(argv)
    with replicas(given.replicas, *given.options) as server:
        print(json.dumps(measure(server, given.tokens, given.rounds), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
