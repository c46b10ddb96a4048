# Managed by mailwright: changes are overwritten.
"""How far the warm-up of the host's address has come, and what waits for it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.sending import warmup
from fastapi import Request
from pydantic import BaseModel, Field

from .routing import Known, new_router, scope

router = new_router()


class Step(BaseModel):
    """Where the address stands with a receiver."""

    provider: str = Field(description="The last part of its servers' names; * is all of them together.")
    step: int = Field(description="The step of the schedule, from 1 on.")
    day_cap: int | None = Field(description="Messages in a day; null: the warm-up is over.")
    hour_cap: int | None = Field(description="Messages in an hour.")
    paused_until: datetime | None = Field(description="After a refusal for reputation nothing is sent until then.")
    waiting: int = Field(description="The domain's messages to recipients that wait for it.")


class Warmup(BaseModel):
    """Of the host, for all domains together."""

    enabled: bool
    steps: int = Field(description="How many the schedule has.")
    data: list[Step]


@router.get("/deliverability/warmup", response_model=Warmup, summary="See how far the warm-up has come")
@scope("statistics.read")
async def show_warmup(request: Request, caller: Known) -> Any:
    """By receiving provider."""
    plan = request.app.state.settings.warmup
    if plan is None:
        return {"enabled": False, "steps": 0, "data": []}
    schedule = plan["schedule"]
    data = []
    for entry in await request.app.state.store.warmup(caller.domain, plan["address"]):
        stage = entry.pop("stage")
        day = warmup.cap(warmup.Ramp(stage), schedule)
        hour = None if day is None else warmup.hourly(day)
        data.append({**entry, "step": min(stage + 1, len(schedule)), "day_cap": day, "hour_cap": hour})
    return {"enabled": True, "steps": len(schedule), "data": data}
