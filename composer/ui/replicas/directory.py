"""What outlives a replica, in an actor of Ray's: who answers, and what is remembered of visitors."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress
from dataclasses import replace

from composer.ui.replicas.routing import Member

# Of Ray, for the names of actors.
NAMESPACE = "adapter-composer"
# Entries that are remembered; the one that was used longest ago leaves. One is some kilobytes.
MOST_REMEMBERED = 20_000


class Directory:
    """Where replicas and the front find each other. Runs as an actor, in one event loop."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._released: set[str] = set()
        self._version = 0
        self._changed = asyncio.Condition()
        self._remembered: OrderedDict[str, object] = OrderedDict()
        self._closing = False

    # --- replicas ------------------------------------------------------------------------------

    async def join(self, member: Member) -> None:
        """A replica answers. Said again with each health check, for a directory that was started anew."""
        if member.key not in self._members and member.key not in self._released:
            await self._set(member)

    async def drain(self, key: str) -> None:
        """A replica is to end: nobody new, and those who are there when their texts have ended."""
        if key in self._members:
            await self._set(replace(self._members[key], draining=True))

    async def leave(self, key: str) -> None:
        """A replica does not answer any more."""
        if self._members.pop(key, None) is not None:
            await self._tell()

    async def release(self, key: str) -> None:
        """No text is read from a draining replica any more."""
        self._released.add(key)
        await self.leave(key)
        await self._tell()

    async def close(self) -> None:
        """The server ends, and no replica waits for its visitors."""
        self._closing = True
        await self._tell()

    async def wait_for_release(self, key: str, seconds: float) -> None:
        """Return when the replica may end: it was released, the server ends, or the time is over."""
        async with self._changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(
                    self._changed.wait_for(lambda: self._closing or key in self._released), seconds
                )

    async def members(self, known: int, seconds: float) -> tuple[int, list[Member]]:
        """A version and the replicas of it, once it is not the one that the caller knows. In version 0 no
        replica has been heard of."""
        async with self._changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: self._version != known), seconds)
            return self._version, list(self._members.values())

    async def _set(self, member: Member) -> None:
        self._members[member.key] = member
        await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._version += 1
            self._changed.notify_all()

    # --- what is remembered --------------------------------------------------------------------

    async def remember(self, key: str, value: object) -> None:
        self._remembered[key] = value
        self._remembered.move_to_end(key)
        if len(self._remembered) > MOST_REMEMBERED:
            self._remembered.popitem(last=False)

    async def recall(self, key: str) -> object:
        """What was remembered; None where nothing was."""
        if key in self._remembered:
            self._remembered.move_to_end(key)
        return self._remembered.get(key)

    async def forget(self, key: str) -> None:
        self._remembered.pop(key, None)
