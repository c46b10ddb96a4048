# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Thin glue: variables in, the model out; the logic is in module_utils/model."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleError, AnsibleUndefinedVariable, AnsibleValueOmittedError
from ansible.plugins.action import ActionBase
from ansible_collections.mailwright.server.plugins.module_utils.model.build import build_model
from ansible_collections.mailwright.server.plugins.module_utils.model.errors import UNREADABLE, ModelError, key_shown
from ansible_collections.mailwright.server.plugins.module_utils.model.schema import is_variable

SECRET_KEYS = (".password", ".password_hash", ".private_key", ".secret_key", ".key")
LONGEST_REASON = 200


# ansible-core carries no types, so to mypy its base class is Any
class ActionModule(ActionBase):  # type: ignore[misc]
    """Builds the model from the host's variables, on the controller alone."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _result, arguments = self.validate_argument_spec(
            {
                "ignore": {"type": "list", "elements": "str", "default": []},
                "defaults": {
                    "type": "dict",
                    "default": {},
                    "options": {"addresses": {"type": "list", "elements": "raw", "default": []}},
                },
            }
        )
        reader = _Reader(self._templar)
        variables = {
            str(name): reader.read(value, str(name))
            for name, value in (task_vars or {}).items()
            if is_variable(name, arguments["ignore"])
        }
        try:
            built = build_model(
                variables,
                ignore=arguments["ignore"],
                default_addresses=(arguments["defaults"] or {}).get("addresses") or [],
                earlier_errors=reader.errors,
            )
        except ModelError as error:
            # the messages hold no secret, and a result that is not censored is the only way to show them
            return {"failed": True, "changed": False, "msg": _message(error.errors), "errors": error.errors}
        return {
            "changed": False,
            "model": built.model,
            "warnings": built.warnings,
            # the passwords are in the model: what callbacks get is censored, what is registered is whole
            "_ansible_no_log": True,
        }


def _message(errors: list[str]) -> str:
    count = "1 mistake" if len(errors) == 1 else f"{len(errors)} mistakes"
    return "\n".join([f"The inventory has {count}:", *errors])


class _Reader:
    """Turns variables into plain Python; only what is a template or vaulted goes through the templating engine."""

    def __init__(self, templar: Any) -> None:
        self.templar = templar
        self.errors: list[str] = []

    def read(self, value: object, path: str, *, final: bool = False) -> object:
        """The value, or ``UNREADABLE`` with an error. ``final``: it came out of a template and is none itself."""
        if value is None or isinstance(value, (bool, float)):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, str):
            if final or not self.templar.is_possibly_template(value):
                return str.__str__(value)
            return self.render(value, path)
        if isinstance(value, dict):
            prefix = f"{path}." if path else ""
            return {
                str.__str__(key) if isinstance(key, str) else key: item
                for key, raw in value.items()
                if (item := self.read(raw, f"{prefix}{key_shown(key)}", final=final)) is not OMITTED
            }
        if isinstance(value, (list, tuple)):
            items = (self.read(raw, f"{path}[{index}]", final=final) for index, raw in enumerate(value))
            return [item for item in items if item is not OMITTED]
        return value if final else self.render(value, path)

    def render(self, value: object, path: str) -> object:
        try:
            rendered = self.templar.template(value)
        except AnsibleValueOmittedError:
            return OMITTED
        except Exception as error:  # whatever a template's plugins raise is the user's mistake, at this path
            self.errors.append(f"{path}: {_reason(error, path)}")
            return UNREADABLE
        return self.read(rendered, path, final=True)


def _reason(error: Exception, path: str) -> str:
    """Why a value cannot be read. What a filter or a lookup says may quote the secret that it was given."""
    if isinstance(error, AnsibleUndefinedVariable):
        text = str(getattr(error, "message", error))
    elif path.endswith(SECRET_KEYS) or path.startswith("mail_dns.providers"):
        return f"cannot be read ({type(error).__name__}; what it says is not shown, for this is a secret)"
    else:
        text = str(error.message) if isinstance(error, AnsibleError) else str(error)
    line = (text.splitlines() or [type(error).__name__])[0][:LONGEST_REASON]
    if path.startswith("mail_domains") and " failed: " in line:
        line = line.partition(" failed: ")[0] + " failed (what it says is not shown, for it may quote a password)"
    return f"cannot be read: {line}"


OMITTED = object()
