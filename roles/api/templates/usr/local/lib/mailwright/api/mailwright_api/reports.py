# Managed by mailwright: changes are overwritten.
"""What other mail servers report about the domain: DMARC and TLS, of the last 30 days."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import Request
from pydantic import BaseModel, Field

from .routing import Known, new_router, scope

router = new_router()


class DmarcSource(BaseModel):
    """An address that sent in the domain's name."""

    source: str = Field(description="The address.")
    messages: int
    failed: int = Field(description="Of these, with neither DKIM nor SPF aligned.")
    reporters: list[str] = Field(description="Who says so, in their own words.")
    dkim: list[str] = Field(description="Results, as domain=result.")
    spf: list[str] = Field(description="Results, as domain=result.")
    last: datetime = Field(description="The end of the last day reported.")


class DmarcSources(BaseModel):
    """The worst first, 1,000 at most."""

    data: list[DmarcSource]


class TlsSessions(BaseModel):
    """With a kind of policy, or with none."""

    policy: str = Field(description="tlsa, sts or no-policy-found.")
    successful: int
    failed: int


class TlsFailure(BaseModel):
    """What went wrong, and where."""

    policy: str
    result: str = Field(description="The result type of RFC 8460.")
    host: str = Field(description="The receiving host; may be empty.")
    sessions: int
    reason: str = Field(description="In the reporter's words; may be empty.")
    reporters: list[str] = Field(description="Who says so, in their own words.")
    last: datetime = Field(description="The end of the last day reported.")


class TlsReports(BaseModel):
    """Failures, the most frequent first, 1,000 at most."""

    sessions: list[TlsSessions]
    failures: list[TlsFailure]


@router.get("/deliverability/dmarc", response_model=DmarcSources, summary="See who sends in the domain's name")
@scope("statistics.read")
async def dmarc(request: Request, caller: Known) -> Any:
    """By DMARC reports of other servers that proved who they are."""
    return {"data": await request.app.state.store.dmarc_sources(caller.domain)}


@router.get("/deliverability/tls", response_model=TlsReports, summary="See how TLS to this host went for others")
@scope("statistics.read")
async def tls(request: Request, caller: Known) -> Any:
    """By TLS reports of other servers that proved who they are."""
    sessions, failures = await request.app.state.store.tls_reports(caller.domain)
    return {"sessions": sessions, "failures": failures}
