# Managed by mailwright: changes are overwritten.
"""Figures: what became of a domain's messages, by day and by who received them."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

from ansible_collections.mailwright.server.plugins.module_utils.probes import listings
from ansible_collections.mailwright.server.plugins.module_utils.sending.compose import Problem
from fastapi import Query, Request
from pydantic import BaseModel, Field

from .problems import ApiError
from .routing import Caller, Known, new_router, scope

LONGEST_DAYS = 400
FIGURES = ("accepted", "delivered", "deferred", "bounced", "expired", "complained", "unsubscribed")

Since = Annotated[date | None, Query(description="The first day, in UTC; 29 days before until, if none is named.")]
Until = Annotated[date | None, Query(description="The last day; today, if none is named.")]

router = new_router()


class Figures(BaseModel):
    """Each message to each recipient counts once a day and kind."""

    accepted: int
    delivered: int
    deferred: int
    bounced: int
    expired: int
    complained: int
    unsubscribed: int


class Summary(Figures):
    """The sum."""

    since: date
    until: date


class DayFigures(Figures):
    """Of one day."""

    day: date


class ProviderFigures(Figures):
    """Of one receiver, which is the last part of its servers' names; empty while nothing was tried there."""

    provider: str


class CellFigures(DayFigures):
    """Of one receiver on one day."""

    provider: str


class Series(BaseModel):
    """Days on which something happened, oldest first."""

    data: list[DayFigures]


class ByProvider(BaseModel):
    """By name."""

    data: list[ProviderFigures]


class Cells(BaseModel):
    """By day, then by name."""

    data: list[CellFigures]


class Rates(ProviderFigures):
    """null: nothing to divide by."""

    delivered_rate: float | None = Field(description="Of accepted.")
    bounced_rate: float | None = Field(description="Of accepted.")
    complained_rate: float | None = Field(description="Of delivered.")


class Deliverability(BaseModel):
    """How mail of the domain fares, in all and with each receiver."""

    since: date
    until: date
    overall: Rates
    providers: list[Rates]


class Listing(BaseModel):
    """What a list says."""

    list: str = Field(description="The list, by its zone.")
    subject: str = Field(description="An address of the host, or the domain.")
    listed: bool | None = Field(description="null: the list cannot be asked.")
    detail: str = Field(description="Its code and its reason, or why it cannot be asked.")


class Listings(BaseModel):
    """By list. None where the host asks none, or could not for hours."""

    asked_at: datetime | None
    data: list[Listing]


@router.get("/statistics", response_model=Summary, summary="Count what became of messages")
@scope("statistics.read")
async def summary(request: Request, caller: Known, since: Since = None, until: Until = None) -> Any:
    """In all."""
    first, last = _range(since, until)
    cells = await _cells(request, caller, first, last)
    return {"since": first, "until": last, **_sum(cells)}


@router.get("/statistics/days", response_model=Series, summary="Count by day")
@scope("statistics.read")
async def by_day(request: Request, caller: Known, since: Since = None, until: Until = None) -> Any:
    """In UTC."""
    cells = await _cells(request, caller, *_range(since, until))
    days = sorted({cell["day"] for cell in cells})
    return {"data": [{"day": day, **_sum([c for c in cells if c["day"] == day])} for day in days]}


@router.get("/statistics/providers", response_model=ByProvider, summary="Count by receiving provider")
@scope("statistics.read")
async def by_provider(request: Request, caller: Known, since: Since = None, until: Until = None) -> Any:
    """By the name of the server that took the message, or last refused it."""
    return {"data": _providers(await _cells(request, caller, *_range(since, until)))}


@router.get("/statistics/days-and-providers", response_model=Cells, summary="Count by day and receiving provider")
@scope("statistics.read")
async def by_day_and_provider(request: Request, caller: Known, since: Since = None, until: Until = None) -> Any:
    """What the others are sums of."""
    return {"data": await _cells(request, caller, *_range(since, until))}


@router.get("/deliverability", response_model=Deliverability, summary="See how mail fares with each provider")
@scope("statistics.read")
async def deliverability(request: Request, caller: Known, since: Since = None, until: Until = None) -> Any:
    """As rates."""
    first, last = _range(since, until)
    cells = await _cells(request, caller, first, last)
    return {
        "since": first, "until": last, "overall": _rates({"provider": "", **_sum(cells)}),
        "providers": [_rates(entry) for entry in _providers(cells) if entry["provider"]],
    }  # fmt: skip


@router.get("/deliverability/blocklists", response_model=Listings, summary="See what blocklists say")
@scope("statistics.read")
async def blocklists(caller: Known) -> Any:
    """Of the host's addresses and the domain. The host asks once an hour."""
    answers = await asyncio.to_thread(listings.load, time.time())
    if answers is None:
        return {"asked_at": None, "data": []}
    return {
        "asked_at": datetime.fromtimestamp(answers.at, UTC),
        "data": [
            {"list": one.zone, "subject": one.subject, "listed": one.listed, "detail": one.words}
            for one in answers.listings
            if one.subject == caller.domain or listings.is_address(one.subject)
        ],
    }  # fmt: skip


def _range(since: date | None, until: date | None) -> tuple[date, date]:
    last = until or datetime.now(UTC).date()
    try:
        first = since or last - timedelta(days=29)
        days = (last - first).days
    except OverflowError:
        days = -1
    if not 0 <= days < LONGEST_DAYS:
        problem = Problem("/since", f"write a day before until, less than {LONGEST_DAYS} days before it")
        raise ApiError(422, "invalid_request", "There are no such days.", [problem])
    return first, last


async def _cells(request: Request, caller: Caller, first: date, last: date) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await request.app.state.store.daily_figures(caller.domain, first, last)
    return found


def _sum(cells: list[dict[str, Any]]) -> dict[str, int]:
    return {name: sum(cell[name] for cell in cells) for name in FIGURES}


def _providers(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = sorted({cell["provider"] for cell in cells})
    return [{"provider": name, **_sum([cell for cell in cells if cell["provider"] == name])} for name in names]


def _rates(figures: dict[str, Any]) -> dict[str, Any]:
    def rate(part: str, whole: str) -> float | None:
        return round(figures[part] / figures[whole], 6) if figures[whole] else None

    return {
        **figures,
        "delivered_rate": rate("delivered", "accepted"),
        "bounced_rate": rate("bounced", "accepted"),
        "complained_rate": rate("complained", "delivered"),
    }
