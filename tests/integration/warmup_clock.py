# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dispatcher with a clock of the test's for the warm-up; runs on the mail server in place of the service.

Its argument is JSON: schedule, and lanes, the receivers to look after. Each line of standard input is a time; the
answer, a line of JSON, comes when everything that may go out at that time has gone, and its fate is known.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from datetime import datetime
from typing import Any

sys.path[:0] = ["/usr/local/lib/mailwright/api", "/usr/local/lib/mailwright/python"]
# the service's own modules, on the path that was set above
from mailwright_api.dispatch import Dispatcher  # noqa: E402
from mailwright_api.outbox import Job  # noqa: E402
from mailwright_api.settings import Settings  # noqa: E402

ADDRESS = "simulated"
STATES = (
    "SELECT lane, rank, count(*) FILTER (WHERE status = 'queued'), count(*) FILTER (WHERE status <> 'queued'), "
    "count(*) FILTER (WHERE status IN ('sending', 'handed_over')) FROM api.recipient WHERE lane = ANY(%s) GROUP BY 1, 2"
)
UNSORTED = "SELECT count(*) FROM api.recipient WHERE status = 'queued' AND lane IS NULL AND not_before <= now()"
RAMPS = "SELECT provider, stage, sent_hour, sent_day, to_json(paused_until)#>>'{}' FROM api.ramp WHERE address = %s"


class Simulation:
    """The dispatcher, its clock, and when it has nothing more to do."""

    def __init__(self, schedule: list[int], lanes: list[str]) -> None:
        self.now = datetime.fromisoformat("2027-01-01T00:00:00+00:00")
        self.lanes = lanes
        plan = {"address": ADDRESS, "schedule": schedule, "relay": False}
        settings = dataclasses.replace(Settings.load(), warmup=plan)
        self.dispatcher = Dispatcher(settings, lambda: self.now)
        self.outbox = self.dispatcher.outbox
        self.lease = self.outbox.lease
        # the dispatcher makes its own outbox; this listens in and passes all on
        self.outbox.lease = self.counted  # type: ignore[method-assign]
        # looks for work that began after the clock was last set, and found none
        self.looked = asyncio.Event()

    async def counted(self, most: int, seconds: float, deadline: float) -> list[Job]:
        time = self.now
        jobs = await self.lease(most, seconds, deadline)
        if not jobs and time is self.now:
            self.looked.set()
        else:
            self.looked.clear()
        return jobs

    async def step(self, text: str) -> dict[str, Any]:
        before = await self.states()
        self.now = datetime.fromisoformat(text)
        while True:
            self.looked.clear()
            await self.looked.wait()
            after = await self.states()
            under_way = sum(row[4] for row in after)
            unsorted = (await self.ask(UNSORTED))[0][0]
            if not under_way and not self.dispatcher.under_way and not unsorted:
                break
        sent = {(lane, rank): count for lane, rank, _waiting, count, _under_way in after}
        for lane, rank, _waiting, count, _under_way in before:
            sent[lane, rank] -= count
        return {
            "sent": [[*place, count] for place, count in sent.items()],
            "waiting": [[lane, rank, waiting] for lane, rank, waiting, _count, _under_way in after],
            "ramps": {name: more for name, *more in await self.ask(RAMPS, (ADDRESS,))},
        }

    async def states(self) -> list[Any]:
        return await self.ask(STATES, (self.lanes,))

    async def ask(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        async with self.outbox.pool.connection() as connection:
            return list(await (await connection.execute(query, values)).fetchall())


async def main() -> None:
    given = json.loads(sys.argv[1])
    simulation = Simulation(given["schedule"], given["lanes"])
    running = asyncio.create_task(simulation.dispatcher.run())
    while line := await asyncio.to_thread(sys.stdin.readline):
        answer = asyncio.create_task(simulation.step(line.strip()))
        await asyncio.wait({answer, running}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            break
        print(json.dumps(await answer), flush=True)
    simulation.dispatcher.stopping.set()
    await running


asyncio.run(main())
