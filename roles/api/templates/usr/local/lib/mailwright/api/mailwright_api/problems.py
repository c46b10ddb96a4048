# Managed by mailwright: changes are overwritten.
"""Errors as callers get them: RFC 9457."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.sending.compose import Problem

MEDIA_TYPE = "application/problem+json"


class ApiError(Exception):
    """An answer that is no success. code is what programs look at, detail what people read."""

    def __init__(
        self, status: int, code: str, detail: str, errors: Sequence[Problem] = (), headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.errors, self.headers = list(errors), headers or {}

    def body(self, request_id: str) -> dict[str, Any]:
        """The problem's members."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "errors": [{"pointer": problem.pointer, "detail": problem.detail} for problem in self.errors],
            "request_id": request_id,
        }


def unavailable() -> ApiError:
    """The database does not answer. Whether a transaction took place is unknown: hence the idempotency key."""
    return ApiError(
        503,
        "unavailable",
        "The service cannot reach its database. Try again, with the same Idempotency-Key if there was one.",
        headers={"retry-after": "2"},
    )


def not_found(what: str) -> ApiError:
    """Also for what exists in another domain: nobody learns that it does."""
    return ApiError(404, "not_found", f"There is no such {what}.")
