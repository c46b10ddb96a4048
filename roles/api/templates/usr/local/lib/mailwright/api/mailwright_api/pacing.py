# Managed by mailwright: changes are overwritten.
"""Warm-up in the database: sorting recipients into lanes, one for each receiver, and taking from each what it may get.

The rules are in sending/warmup.py. What goes out is noted in the transaction that leases it, so no crash forgets it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, fields, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from ansible_collections.mailwright.server.plugins.module_utils.sending import warmup
from ansible_collections.mailwright.server.plugins.module_utils.sending.warmup import ALL, LOCAL, RELAY, Ramp

LARGEST_SORT = 500
ANY_NUMBER = 2**31 - 1
_COLUMNS = ", ".join(field.name for field in fields(Ramp))


class Heard(NamedTuple):
    """What was heard of a message that went out: kind is that of the event."""

    lane: str | None
    kind: str
    code: str
    detail: str


def now_utc() -> datetime:
    """What the clock says."""
    return datetime.now(UTC)


class Pace:
    """The warm-up of an address. Its methods work in the caller's transaction, one caller at a time."""

    def __init__(self, address: str, schedule: Sequence[int], relay: bool, clock: Callable[[], datetime]) -> None:
        self.address, self.schedule, self.relay, self.clock = address, schedule, relay, clock

    async def sort(self, connection: Any) -> int:
        """Put some of what is due into its lanes; how many."""
        cursor = await connection.execute("SELECT api.sort_recipients(%s, %s)", (self.address, LARGEST_SORT))
        return int((await cursor.fetchone())[0])

    async def choose(self, connection: Any, most: int, now: datetime) -> tuple[list[UUID], datetime]:
        """What may go out at that time, transactional mail first, and the hour that it counts for."""
        chosen = await _first(connection, {LOCAL: most, RELAY: most}, most)
        ramps = await self._turned(connection, now)
        if self.relay:
            await self._overflow(connection, ramps, now)
        rooms = {name: self._amount(warmup.room(ramp, now, self.schedule)) for name, ramp in ramps.items()}
        total = min(rooms.pop(ALL), most - len(chosen))
        paced = await _first(connection, {lane: min(room, total) for lane, room in rooms.items() if room > 0}, total)
        taken = Counter(lane for _id, lane in paced)
        taken[ALL] = len(paced)
        await self._write(
            connection, {name: warmup.take(ramp, taken[name]) for name, ramp in ramps.items() if taken[name]}
        )  # fmt: skip
        return [id_ for id_, _lane in [*chosen, *paced]], warmup.hour_of(now)

    async def give_back(self, connection: Any, unsent: Iterable[tuple[str | None, datetime | None]]) -> None:
        """These did not go out: lane and hour of each."""
        for (lane, hour), count in Counter(unsent).items():
            if lane not in (None, LOCAL, RELAY):
                await connection.execute(
                    "UPDATE api.ramp SET sent_hour = greatest(sent_hour - %s, 0), "
                    "sent_day = greatest(sent_day - %s, 0) WHERE address = %s AND provider = ANY(%s) AND hour = %s",
                    (count, count, self.address, [lane, ALL], hour),
                )

    async def hear(self, connection: Any, heard: Sequence[Heard]) -> None:
        """Take notice of what receivers said of this address's mail."""
        told = [
            entry for entry in heard
            if entry.lane not in (None, LOCAL, RELAY) and entry.kind in ("bounced", "deferred", "complained")
        ]  # fmt: skip
        if not told:
            return
        now = self.clock()
        ramps = await self._turned(connection, now)
        changed: dict[str, Ramp] = {}
        for entry in told:
            refused = entry.kind != "complained" and warmup.is_reputation(entry.code, entry.detail)
            bounced, complained = int(entry.kind == "bounced"), int(entry.kind == "complained")
            for name, is_refused in ((entry.lane, refused), (ALL, False)):
                if name in ramps:
                    ramp = changed.get(name, ramps[name])
                    changed[name] = warmup.observe(ramp, now, bounced, complained, is_refused)
        await self._write(connection, changed)

    def _amount(self, room: int | None) -> int:
        return ANY_NUMBER if room is None else room

    async def _turned(self, connection: Any, now: datetime) -> dict[str, Ramp]:
        """All ramps of the address, in the hour that it is."""
        await connection.execute(
            "INSERT INTO api.ramp (address, provider) VALUES (%s, %s) ON CONFLICT DO NOTHING", (self.address, ALL)
        )
        # (S608: put together from constants)
        cursor = await connection.execute(
            f"SELECT provider, {_COLUMNS} FROM api.ramp WHERE address = %s ORDER BY provider",  # noqa: S608
            (self.address,),
        )
        found = {name: _in_utc(Ramp(*values)) for name, *values in await cursor.fetchall()}
        if all(ramp.hour == warmup.hour_of(now) for ramp in found.values()):
            return found
        cursor = await connection.execute(
            "SELECT lane, count(*) FROM api.recipient WHERE status IN ('sending', 'handed_over', 'deferred') "
            "AND lane IS NOT NULL AND lane <> ALL(%s) GROUP BY lane",
            ([LOCAL, RELAY],),
        )
        outstanding = Counter(dict(await cursor.fetchall()))
        outstanding[ALL] = outstanding.total()
        turned = {name: warmup.turn(ramp, now, self.schedule, outstanding[name]) for name, ramp in found.items()}
        await self._write(connection, {name: ramp for name, ramp in turned.items() if ramp != found[name]})
        return turned

    async def _write(self, connection: Any, ramps: Mapping[str, Ramp]) -> None:
        if not ramps:
            return
        async with connection.cursor() as cursor:
            # (S608: put together from constants)
            await cursor.executemany(
                f"UPDATE api.ramp SET ({_COLUMNS}) = ROW({', '.join(['%s'] * len(fields(Ramp)))}) "  # noqa: S608
                "WHERE address = %s AND provider = %s",
                [(*astuple(ramp), self.address, name) for name, ramp in sorted(ramps.items())],
            )

    async def _overflow(self, connection: Any, ramps: Mapping[str, Ramp], now: datetime) -> None:
        """Let the relay have what this hour has no place for."""
        lefts = {name: self._amount(warmup.left(ramp, now, self.schedule)) for name, ramp in ramps.items()}
        total = lefts.pop(ALL)
        await connection.execute(
            "WITH waiting AS (SELECT r.id, r.rank, r.not_before, l.most >= "
            "row_number() OVER (PARTITION BY r.lane ORDER BY r.rank, r.not_before, r.id) AS fits "
            "FROM api.recipient r JOIN unnest(%s::text[], %s::int[]) AS l(lane, most) ON l.lane = r.lane "
            "WHERE r.status = 'queued' AND r.lane IS NOT NULL AND r.not_before <= now()), "
            "placed AS (SELECT id, fits, row_number() OVER (PARTITION BY fits ORDER BY rank, not_before, id) AS place "
            "FROM waiting) "
            "UPDATE api.recipient SET lane = %s WHERE status = 'queued' "
            "AND id IN (SELECT id FROM placed WHERE NOT fits OR place > %s LIMIT %s)",
            ([*lefts], [*lefts.values()], RELAY, total, LARGEST_SORT),
        )


def _in_utc(ramp: Ramp) -> Ramp:
    until = ramp.paused_until
    return replace(ramp, hour=ramp.hour.astimezone(UTC), paused_until=until and until.astimezone(UTC))


async def _first(connection: Any, rooms: Mapping[str, int], most: int) -> list[tuple[UUID, str]]:
    """What waits in these lanes, so many of each at most, in the order of rank and time."""
    if most <= 0 or not rooms:
        return []
    cursor = await connection.execute(
        "SELECT r.id, l.lane FROM unnest(%s::text[], %s::int[]) AS l(lane, most) CROSS JOIN LATERAL ("
        "SELECT id, rank, not_before FROM api.recipient WHERE status = 'queued' AND lane = l.lane "
        "AND not_before <= now() ORDER BY rank, not_before LIMIT l.most) AS r ORDER BY r.rank, r.not_before LIMIT %s",
        ([*rooms], [*rooms.values()], most),
    )
    return list(await cursor.fetchall())
