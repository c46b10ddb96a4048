# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The providers by name, and how the settings of one are checked. A provider's module is loaded when it is opened."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import Provider

if TYPE_CHECKING:
    # Ansible sends a module along with what import statements name, so each provider needs to be named in one.
    from ansible_collections.mailwright.server.plugins.module_utils.dns.providers import (  # noqa: F401
        cloudflare,
        desec,
        digitalocean,
        gandi,
        google,
        hetzner,
        manual,
        ovh,
        powerdns,
        rfc2136,
        route53,
    )

_PACKAGE = __name__.rpartition(".")[0]
# Name in the settings -> module of this package, and its class. The module has SETTINGS: keyword of the constructor ->
# Setting; one that needs a library has LIBRARY_ERROR.
PROVIDERS: Mapping[str, tuple[str, str]] = {
    "cloudflare": ("cloudflare", "Cloudflare"),
    "desec": ("desec", "Desec"),
    "digitalocean": ("digitalocean", "DigitalOcean"),
    "gandi": ("gandi", "Gandi"),
    "google": ("google", "Google"),
    "hetzner": ("hetzner", "Hetzner"),
    "manual": ("manual", "Manual"),
    "ovh": ("ovh", "Ovh"),
    "powerdns": ("powerdns", "PowerDNS"),
    "rfc2136": ("rfc2136", "Rfc2136"),
    "route53": ("route53", "Route53"),
}


class SettingsError(Exception):
    """The settings of a provider are wrong; one line for each mistake: key, value, what is right."""


class LibraryMissingError(Exception):
    """A Python library is missing on the controller. `trace` is the import's traceback."""

    def __init__(self, provider: str, trace: str) -> None:
        super().__init__(f"provider {provider}: a Python library is missing on the controller")
        self.trace = trace


def _module(settings: Mapping[str, Any]) -> ModuleType:
    """Load the module that the setting `type` names. Raises SettingsError and LibraryMissingError."""
    name = settings.get("type")
    if name not in PROVIDERS:
        raise SettingsError(f"type: {name!r}: must be one of {', '.join(sorted(PROVIDERS))}")
    module = importlib.import_module(f"{_PACKAGE}.{PROVIDERS[str(name)][0]}")
    # Those that are reached by HTTP have loaded its module, which holds their library.
    trace = getattr(module, "LIBRARY_ERROR", None) or getattr(
        sys.modules.get(f"{_PACKAGE}.http"), "LIBRARY_ERROR", None
    )
    if trace:
        raise LibraryMissingError(str(name), trace)
    return module


def known_settings(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """What settings the type has. Raises SettingsError and LibraryMissingError."""
    known: Mapping[str, Any] = _module(settings).SETTINGS
    return known


def secrets_of(settings: Mapping[str, Any]) -> set[str]:
    """The secrets among the settings, for keeping them out of every output; of an unknown type, all values are."""
    try:
        known = known_settings(settings)
    except (SettingsError, LibraryMissingError):
        return {str(value) for key, value in settings.items() if key != "type" and value}
    return {str(value) for key, value in settings.items() if value and key in known and known[key].secret}


def open_provider(settings: Mapping[str, Any]) -> Provider:
    """Make the provider that the settings describe: `type`, and the keywords of its class. Connects to nothing.

    Raises SettingsError with every mistake at once, without a secret's value, and LibraryMissingError.
    """
    known = known_settings(settings)
    given = {key: value for key, value in settings.items() if key != "type" and value is not None}
    errors = [f"{key}: unknown; {settings['type']} has {', '.join(known)}" for key in given if key not in known]
    errors += [f"{key}: missing: {known[key].meaning}" for key in known if known[key].required and key not in given]
    values = {}
    for key, value in given.items():
        if key in known:
            kind = getattr(known[key], "kind", str)
            try:
                values[key] = _as(kind, value)
            except ValueError:
                shown = "its value" if known[key].secret else repr(value)
                errors.append(f"{key}: {shown}: must be {_WORDS[kind]}: {known[key].meaning}")
    if not errors:
        try:
            provider: Provider = getattr(_module(settings), PROVIDERS[settings["type"]][1])(**values)
            return provider
        except ValueError as error:
            errors.append(str(error))
    raise SettingsError("\n".join(errors))


_WORDS = {str: "a text that is not empty", int: "a whole number above 0"}


def _as(kind: type[Any], value: Any) -> Any:
    """A setting's value in its type; Ansible gives numbers as text at times."""
    if kind is int:
        number = int(value) if not isinstance(value, bool) else 0
        if number <= 0:
            raise ValueError("not above 0")
        return number
    if not isinstance(value, str) or not value.strip():
        raise ValueError("not a text")
    return value
