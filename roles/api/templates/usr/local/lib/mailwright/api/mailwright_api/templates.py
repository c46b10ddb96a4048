# Managed by mailwright: changes are overwritten.
"""Templates: what messages are made from, in versions that never change."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from ansible_collections.mailwright.server.plugins.module_utils.sending import ids
from ansible_collections.mailwright.server.plugins.module_utils.sending.compose import Problem
from fastapi import Path, Request, Response
from pydantic import BaseModel, Field

from . import resources
from .problems import ApiError, not_found
from .renderer import RenderError
from .routing import Caller, Known, Limit, new_router, scope

LONGEST_SOURCE = 200_000
MOST_VERSIONS = 1000
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$"

TemplateId = Annotated[UUID, Path(description="The template's id.")]
Version = Annotated[int, Path(ge=1, le=1_000_000, description="The version's number.")]
Name = Annotated[str, Field(pattern=NAME_PATTERN, examples=["welcome"])]
Source = Annotated[str, Field(max_length=LONGEST_SOURCE, examples=["Hello {{ name }}"])]

router = new_router()


class VersionInput(resources.Input):
    """What messages are made from, in Jinja's language. In html, variables are escaped."""

    subject: str = Field(max_length=1000, examples=["Your order {{ number }}"])
    text: Source | None = None
    html: Source | None = None


class TemplateInput(VersionInput):
    """A template with its first version."""

    name: Name


class TemplateChange(resources.Input):
    """What is to change."""

    name: Name | None = None
    active_version: int | None = Field(default=None, ge=1, le=1_000_000)


class RenderInput(resources.Input):
    """What to fill in."""

    variables: dict[str, Any] = Field(default={})
    version: int | None = Field(default=None, ge=1, le=1_000_000, description="The active one, if none is named.")


class Template(BaseModel):
    """A template. Messages that name no version use the active one."""

    id: UUID
    name: str
    active_version: int
    created_at: datetime


class TemplateVersion(BaseModel):
    """It never changes."""

    version: int
    subject: str
    text: str | None
    html: str | None
    created_at: datetime


class Rendered(BaseModel):
    """What a message would hold."""

    subject: str
    text: str | None
    html: str | None


class TemplatePage(BaseModel):
    """Newest first. next is the cursor for after."""

    data: list[Template]
    next: str | None


class VersionList(BaseModel):
    """All of them, newest first."""

    data: list[TemplateVersion]


@router.post("/templates", status_code=201, response_model=Template, summary="Make a template")
@scope("templates.write")
async def make_template(request: Request, caller: Known, body: TemplateInput) -> Any:
    """With its first version, which is active."""
    await _check(request, body)
    template = ids.new_id()
    await request.app.state.store.add_template(caller.domain, template, body.name, _sources(body))
    return await _template(request, caller, template)


@router.get("/templates", response_model=TemplatePage, summary="List templates")
@scope("templates.read")
async def list_templates(request: Request, caller: Known, limit: Limit = 20, after: UUID | None = None) -> Any:
    """Newest first."""
    found = await request.app.state.store.templates(caller.domain, limit + 1, after)
    return {"data": found[:limit], "next": str(found[limit - 1]["id"]) if len(found) > limit else None}


@router.get("/templates/{template_id}", response_model=Template, summary="Show a template")
@scope("templates.read")
async def show_template(request: Request, caller: Known, template_id: TemplateId) -> Any:
    """Without its versions."""
    return await _template(request, caller, template_id)


@router.patch("/templates/{template_id}", response_model=Template, summary="Change a template")
@scope("templates.write")
async def change_template(request: Request, caller: Known, template_id: TemplateId, body: TemplateChange) -> Any:
    """Its name, or which version is active: an older one too."""
    await _template(request, caller, template_id)
    if body.active_version is not None:
        await _version(request, caller, template_id, body.active_version)
    await request.app.state.store.change_template(caller.domain, template_id, body.name, body.active_version)
    return await _template(request, caller, template_id)


@router.delete(
    "/templates/{template_id}", status_code=204, response_class=Response, summary="Remove a template and its versions"
)
@scope("templates.write")
async def remove_template(request: Request, caller: Known, template_id: TemplateId) -> Response:
    """Messages that were made from it stay as they are."""
    if not await request.app.state.store.remove_template(caller.domain, template_id):
        raise not_found("template")
    return Response(status_code=204)


@router.post(
    "/templates/{template_id}/versions", status_code=201, response_model=TemplateVersion, summary="Make a new version"
)
@scope("templates.write")
async def make_version(request: Request, caller: Known, template_id: TemplateId, body: VersionInput) -> Any:
    """It is active at once."""
    await _template(request, caller, template_id)
    await _check(request, body)
    version = await request.app.state.store.add_version(caller.domain, template_id, _sources(body), MOST_VERSIONS)
    if version is None:
        raise ApiError(409, "too_many_versions", f"The template has {MOST_VERSIONS} versions already.")
    return await _version(request, caller, template_id, version)


@router.get("/templates/{template_id}/versions", response_model=VersionList, summary="List a template's versions")
@scope("templates.read")
async def list_versions(request: Request, caller: Known, template_id: TemplateId) -> Any:
    """Newest first."""
    await _template(request, caller, template_id)
    return {"data": await request.app.state.store.versions(caller.domain, template_id)}


@router.get("/templates/{template_id}/versions/{version}", response_model=TemplateVersion, summary="Show a version")
@scope("templates.read")
async def show_version(request: Request, caller: Known, template_id: TemplateId, version: Version) -> Any:
    """What messages are made from."""
    return await _version(request, caller, template_id, version)


@router.post("/templates/{template_id}/render", response_model=Rendered, summary="See what a message would hold")
@scope("templates.read")
async def render_template(request: Request, caller: Known, template_id: TemplateId, body: RenderInput) -> Any:
    """Nothing is sent."""
    template = await _template(request, caller, template_id)
    found = await _version(request, caller, template_id, body.version or template["active_version"])
    return await _render(request, found, body.variables, "")


async def fill(request: Request, caller: Caller, use: resources.TemplateUse) -> dict[str, Any]:
    """Subject, text and html of a message. Raises ApiError."""
    try:
        template = await _template(request, caller, UUID(use.id))
        found = await _version(request, caller, template["id"], use.version or template["active_version"])
    except ApiError as error:
        if error.status != 404:
            raise
        problem = Problem("/template", error.detail)
        raise ApiError(422, "invalid_request", "The message cannot be sent as it is.", [problem]) from error
    return await _render(request, found, use.variables, "/template")


async def _render(
    request: Request, version: dict[str, Any], variables: dict[str, Any] | None, pointer: str
) -> dict[str, Any]:
    sources = {part: version[part] for part in ("subject", "text", "html")}
    try:
        rendered: dict[str, Any] = await request.app.state.renderer.render(sources, variables)
    except RenderError as error:
        where = f"{pointer}/{error.part}" if error.part else pointer
        problem = Problem(where, _readable(error.detail))
        raise ApiError(422, "template_failed", "The template cannot be rendered.", [problem]) from error
    for part, text in rendered.items():
        if text is not None and _unfit(text):
            problem = Problem(f"{pointer}/{part}", "becomes text with a NUL or half of a surrogate pair")
            raise ApiError(422, "template_failed", "The template cannot be rendered.", [problem])
    # a subject in several lines is a template's way of writing, and no header's
    rendered["subject"] = " ".join(rendered["subject"].split())
    return rendered


async def _check(request: Request, body: VersionInput) -> None:
    """Raises ApiError when it is no template."""
    if body.text is None and body.html is None:
        problem = Problem("/text", "is missing: write text, html or both")
        raise ApiError(422, "invalid_request", "The template cannot be used.", [problem])
    problems = [
        Problem(f"/{part}", "holds a NUL or half of a surrogate pair")
        for part, source in _sources(body).items()
        if source is not None and _unfit(source)
    ]
    if problems:
        raise ApiError(422, "invalid_request", "The template cannot be used.", problems)
    await _render(request, _sources(body), None, "")


def _unfit(text: str) -> bool:
    return any(char == "\0" or "\ud800" <= char <= "\udfff" for char in text)


def _readable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _sources(body: VersionInput) -> dict[str, str | None]:
    return {"subject": body.subject, "text": body.text, "html": body.html}


async def _template(request: Request, caller: Caller, template: UUID) -> dict[str, Any]:
    found: list[dict[str, Any]] = await request.app.state.store.templates(caller.domain, 1, only=template)
    if not found:
        raise not_found("template")
    return found[0]


async def _version(request: Request, caller: Caller, template: UUID, version: int) -> dict[str, Any]:
    found: list[dict[str, Any]] = await request.app.state.store.versions(caller.domain, template, version)
    if not found:
        raise not_found("version")
    return found[0]
