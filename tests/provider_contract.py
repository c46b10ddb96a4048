# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract of DNS providers as checks that any provider must pass, on an imitation or on a live server.

A check takes a Case, which makes providers and empty zones. CHECKS run everywhere; FAULT_CHECKS need a server whose
faults can be ordered.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import (
    Change,
    ConflictError,
    CredentialsError,
    Provider,
    ProviderError,
    UnsupportedError,
    ZoneMissingError,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset, text_value


class Faults(Protocol):
    """What a test may order from a server; see the imitations for the meaning."""

    busy: int
    retry_after: str
    dropped: int
    lost: int
    writes_left: int | None
    failing_page: int | None
    pages: int


@dataclass(frozen=True)
class Case:
    """A provider under test.

    `zone` makes an empty zone and gives its name; `missing_zone` is one that the server does not have (None: it has
    any). `wrong` is the same provider with wrong credentials; `secrets` are texts that must show up nowhere. `refused`
    says of a record set that this provider, by its documentation, does not take it. `stored` counts a zone's records
    on the server itself. `waits` gets the seconds that the provider would have slept.
    """

    name: str
    provider: Provider
    zone: Callable[[], str]
    faults: Faults | None = None
    wrong: Provider | None = None
    secrets: tuple[str, ...] = ()
    missing_zone: str | None = "missing.test."
    refused: Callable[[RRset], bool] = lambda _rrset: False
    stored: Callable[[str], int] | None = None
    waits: list[float] = field(default_factory=list)


TTL = 3600


def full_set(case: Case, zone: str) -> list[RRset]:
    """Every type and trap that the provider takes."""

    def rrset(name: str, kind: str, *values: str) -> RRset:
        return RRset(f"{name}.{zone}" if name else zone, kind, TTL, tuple(sorted(values)))

    candidates = [
        rrset("", "A", "192.0.2.1", "192.0.2.2"),
        rrset("mail", "AAAA", "2001:db8::25"),
        rrset("", "MX", f"10 mail.{zone}", "20 mx.example.net."),
        rrset("nomail", "MX", "0 ."),
        rrset("", "TXT", text_value("v=spf1 mx -all"), text_value("site-verification=abc")),
        rrset("s1._domainkey", "TXT", text_value("v=DKIM1; k=rsa; p=" + "Ab0+/" * 78 + "==")),
        rrset("quotes", "TXT", text_value('say "hello"; and so on')),
        rrset("backslash", "TXT", text_value('a\\b\\"c\\\\; d\\010e')),
        rrset("octets", "TXT", text_value("grün \u2603")),
        rrset("spaces", "TXT", text_value("  two  spaces  ")),
        rrset("edge", "TXT", text_value("x" * 255 + "y")),
        rrset("", "CAA", '0 issue "letsencrypt.org"'),
        rrset("ca", "CAA", '0 issue "letsencrypt.org; accounturi=https://acme.example/acct/1"', '0 issuewild ";"'),
        rrset("_imaps._tcp", "SRV", f"0 1 993 mail.{zone}"),
        rrset("_pop3s._tcp", "SRV", "0 0 0 ."),
        rrset("autoconfig", "CNAME", f"mail.{zone}"),
        rrset("web", "CNAME", zone),
        rrset("elsewhere", "CNAME", "host.example.net."),
        rrset("_25._tcp.mail", "TLSA", "3 1 1 " + "0123456789abcdef" * 4, "3 1 1 " + "fedcba9876543210" * 4),
        rrset("*.wild", "A", "192.0.2.3"),
    ]
    return [
        candidate
        for candidate in candidates
        if candidate.type in case.provider.capabilities.types and not case.refused(candidate)
    ]


def create(case: Case, zone: str, rrsets: Iterable[RRset]) -> None:
    case.provider.apply(zone, [Change(None, rrset) for rrset in rrsets])


def listed(case: Case, zone: str) -> dict[tuple[str, str], RRset]:
    """What a zone holds, without what the provider itself puts into it."""
    found = case.provider.records(zone)
    assert len({(rrset.name, rrset.type) for rrset in found}) == len(found)
    return {
        (rrset.name, rrset.type): rrset
        for rrset in found
        if rrset.type != "SOA" and (rrset.name, rrset.type) != (zone, "NS")
    }


def keyed(rrsets: Iterable[RRset]) -> dict[tuple[str, str], RRset]:
    return {(rrset.name, rrset.type): rrset for rrset in rrsets}


def address(zone: str, label: str, *last: int, ttl: int = TTL) -> RRset:
    return RRset(f"{label}.{zone}", "A", ttl, tuple(sorted(f"192.0.2.{octet}" for octet in last)))


def an_empty_zone_is_empty(case: Case) -> None:
    zone = case.zone()
    assert listed(case, zone) == {}
    assert case.provider.get(zone, f"www.{zone}", "A") is None
    case.provider.apply(zone, [])
    assert listed(case, zone) == {}


def what_is_written_is_listed_back(case: Case) -> None:
    zone = case.zone()
    wanted = full_set(case, zone)
    assert {rrset.type for rrset in wanted} >= {"A", "AAAA", "MX", "TXT", "CAA", "SRV", "CNAME"}
    create(case, zone, wanted)
    assert listed(case, zone) == keyed(wanted)
    for rrset in wanted:
        assert case.provider.get(zone, rrset.name, rrset.type) == rrset
    assert case.provider.get(zone, f"mail.{zone}", "TXT") is None


def record_sets_are_replaced_and_deleted(case: Case) -> None:
    zone = case.zone()
    before = full_set(case, zone)
    create(case, zone, before)
    changes, after = [], []
    for rrset in before:
        if rrset.type == "TXT" and len(rrset.values) == 2:
            new = replace(rrset, values=(rrset.values[0],))
        elif rrset.type == "A":
            new = replace(rrset, values=("192.0.2.2", "192.0.2.9"), ttl=7200)
        elif rrset.type == "CNAME":
            new = replace(rrset, values=("other.example.net.",))
        elif rrset.type == "MX":
            new = replace(rrset, ttl=7200)
        elif rrset.type in ("SRV", "TLSA"):
            changes.append(Change(rrset, None))
            continue
        else:
            new = rrset
        changes.append(Change(rrset, new))
        after.append(new)
    case.provider.apply(zone, changes)
    assert listed(case, zone) == keyed(after)
    case.provider.apply(zone, [Change(rrset, None) for rrset in after])
    assert listed(case, zone) == {}


def a_name_changes_between_cname_and_address(case: Case) -> None:
    zone = case.zone()
    cname = RRset(f"www.{zone}", "CNAME", TTL, ("host.example.net.",))
    host = address(zone, "www", 1)
    create(case, zone, [cname])
    case.provider.apply(zone, [Change(None, host), Change(cname, None)])
    assert listed(case, zone) == keyed([host])
    case.provider.apply(zone, [Change(None, cname), Change(host, None)])
    assert listed(case, zone) == keyed([cname])


def a_long_listing_is_whole(case: Case) -> None:
    zone = case.zone()
    wanted = [address(zone, f"host{number}", number) for number in range(30)]
    create(case, zone, wanted)
    assert listed(case, zone) == keyed(wanted)


def a_ttl_below_the_minimum_is_raised(case: Case) -> None:
    zone = case.zone()
    create(case, zone, [address(zone, "www", 1, ttl=1)])
    found = case.provider.get(zone, f"www.{zone}", "A")
    assert found == address(zone, "www", 1, ttl=max(1, case.provider.capabilities.minimum_ttl))


def a_stale_old_value_is_a_conflict(case: Case) -> None:
    zone = case.zone()
    live = [address(zone, "www", 1), address(zone, "ftp", 1, 2), address(zone, "old", 1)]
    create(case, zone, live)
    stale = [
        Change(address(zone, "www", 7), address(zone, "www", 8)),
        Change(address(zone, "www", 7), None),
        Change(None, address(zone, "www", 8)),
        Change(address(zone, "ftp", 1), address(zone, "ftp", 8)),
        Change(address(zone, "ftp", 1, 2, 3), address(zone, "ftp", 8, 9)),
        Change(address(zone, "www", 1, ttl=7200), address(zone, "www", 8)),
        Change(address(zone, "gone", 1), address(zone, "gone", 8)),
    ]
    for change in stale:
        with pytest.raises(ConflictError):
            case.provider.apply(zone, [Change(None, address(zone, "new", 1)), change])
        assert listed(case, zone) == keyed(live), change


def what_is_as_wanted_is_no_conflict(case: Case) -> None:
    zone = case.zone()
    live = [address(zone, "www", 8), address(zone, "ftp", 1)]
    create(case, zone, live)
    case.provider.apply(
        zone,
        [
            Change(address(zone, "www", 7), address(zone, "www", 8)),
            Change(address(zone, "gone", 7), None),
            Change(address(zone, "ftp", 1), address(zone, "ftp", 2)),
        ],
    )
    assert listed(case, zone) == keyed([address(zone, "www", 8), address(zone, "ftp", 2)])


def what_is_not_supported_is_refused_before_anything_is_written(case: Case) -> None:
    zone = case.zone()
    capabilities = case.provider.capabilities
    unsupported = [
        RRset(f"x.{zone}", "LOC", TTL, ("52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m",)),
        RRset(f"x.{zone}", "TXT", TTL, (text_value("x" * (capabilities.max_text + 1)),)),
    ]
    assert "LOC" not in capabilities.types
    for rrset in unsupported:
        with pytest.raises(UnsupportedError):
            create(case, zone, [address(zone, "www", 1), rrset])
    assert listed(case, zone) == {}


def a_missing_zone_is_named(case: Case) -> None:
    if case.missing_zone is None:
        pytest.skip("this server has every zone")
    zone = case.missing_zone
    for attempt in (
        lambda: case.provider.records(zone),
        lambda: case.provider.get(zone, f"www.{zone}", "A"),
        lambda: create(case, zone, [address(zone, "www", 1)]),
    ):
        with pytest.raises(ZoneMissingError, match=zone.rstrip(".")):
            attempt()


def wrong_credentials_are_named_and_not_shown(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    if case.wrong is None:
        pytest.skip("this server takes any credentials")
    zone = case.zone()
    wrong = case.wrong
    caplog.set_level(logging.DEBUG)
    for attempt in (
        lambda: wrong.records(zone),
        lambda: wrong.get(zone, f"www.{zone}", "A"),
        lambda: wrong.apply(zone, [Change(None, address(zone, "www", 1))]),
    ):
        with pytest.raises(CredentialsError) as caught:
            attempt()
        _shows_no_secret(case, caught, caplog)
    assert listed(case, zone) == {}


def _shows_no_secret(case: Case, caught: pytest.ExceptionInfo[ProviderError], caplog: pytest.LogCaptureFixture) -> None:
    told = caplog.text
    error: BaseException | None = caught.value
    while error is not None:
        told += str(error) + repr(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert case.secrets
    for secret in case.secrets:
        assert secret not in told


Check = Callable[[Case], None]
CHECKS: list[Check] = [
    an_empty_zone_is_empty,
    what_is_written_is_listed_back,
    record_sets_are_replaced_and_deleted,
    a_name_changes_between_cname_and_address,
    a_long_listing_is_whole,
    a_ttl_below_the_minimum_is_raised,
    a_stale_old_value_is_a_conflict,
    what_is_as_wanted_is_no_conflict,
    what_is_not_supported_is_refused_before_anything_is_written,
    a_missing_zone_is_named,
]


def ordered(case: Case) -> Faults:
    assert case.faults is not None
    return case.faults


def a_listing_with_a_failing_page_fails(case: Case) -> None:
    zone = case.zone()
    create(case, zone, [address(zone, f"host{number}", number) for number in range(30)])
    ordered(case).pages = 0
    case.provider.records(zone)
    pages = ordered(case).pages
    assert pages > 3
    for page in range(1, pages + 1):
        ordered(case).failing_page = page
        with pytest.raises(ProviderError):
            case.provider.records(zone)
        with pytest.raises(ProviderError):
            create(case, zone, [address(zone, "new", 1)])
    ordered(case).failing_page = None
    assert len(listed(case, zone)) == 30


def a_busy_server_is_waited_for(case: Case) -> None:
    zone = case.zone()
    ordered(case).busy = 2
    ordered(case).retry_after = "7"
    create(case, zone, [address(zone, "www", 1)])
    assert case.waits.count(7.0) == 2
    ordered(case).busy = 1
    ordered(case).retry_after = "86400"
    with pytest.raises(ProviderError, match="86400 s"):
        case.provider.records(zone)
    assert listed(case, zone) == keyed([address(zone, "www", 1)])


def a_dropped_connection_is_tried_again(case: Case) -> None:
    zone = case.zone()
    for number in range(1, 4):
        ordered(case).dropped = number
        create(case, zone, [address(zone, f"host{number}", number)])
        assert ordered(case).dropped == 0
    assert len(listed(case, zone)) == 3


def _mixed_changes(zone: str) -> tuple[list[RRset], list[Change], list[RRset]]:
    """Record sets, changes to them of each kind, and the outcome."""
    before = [
        address(zone, "replaced", 1, 2),
        address(zone, "shrunk", 1, 2, 3),
        address(zone, "slower", 1, 2),
        address(zone, "deleted", 1, 2),
        RRset(f"alias.{zone}", "CNAME", TTL, ("one.example.net.",)),
        address(zone, "kept", 1),
    ]
    after = [
        address(zone, "replaced", 2, 3, 4),
        address(zone, "shrunk", 2),
        address(zone, "slower", 1, 3, ttl=7200),
        RRset(f"alias.{zone}", "CNAME", TTL, ("two.example.net.",)),
        address(zone, "created", 5, 6),
        address(zone, "kept", 1),
    ]
    old, new = keyed(before), keyed(after)
    keys = sorted((old.keys() | new.keys()) - {(f"kept.{zone}", "A")})
    return before, [Change(old.get(key), new.get(key)) for key in keys], after


def a_half_made_call_is_completed_by_the_same_call(case: Case) -> None:
    for made in itertools.count():
        zone = case.zone()
        before, changes, after = _mixed_changes(zone)
        create(case, zone, before)
        ordered(case).writes_left = made
        whole = False
        try:
            case.provider.apply(zone, changes)
            whole = True
        except ProviderError:
            pass
        ordered(case).writes_left = None
        _nothing_wanted_is_missing(case, zone, changes)
        if case.provider.capabilities.atomic and not whole:
            assert listed(case, zone) == keyed(before)
        case.provider.apply(zone, changes)
        assert listed(case, zone) == keyed(after)
        if whole:
            assert made > 0
            return


def _nothing_wanted_is_missing(case: Case, zone: str, changes: Iterable[Change]) -> None:
    """Of a record set that is replaced, all old or all new values are live at any time."""
    live = listed(case, zone)
    for change in changes:
        if change.old and change.new:
            values = set(live[change.name, change.type].values)
            assert values >= set(change.old.values) or values >= set(change.new.values)


def a_change_that_was_made_but_not_answered_counts(case: Case) -> None:
    for lost in (1, 2):
        zone = case.zone()
        before, changes, after = _mixed_changes(zone)
        create(case, zone, before)
        ordered(case).lost = lost
        case.provider.apply(zone, changes)
        ordered(case).lost = 0
        assert listed(case, zone) == keyed(after)
        if case.stored:
            assert case.stored(zone) == sum(len(rrset.values) for rrset in after)


FAULT_CHECKS: list[Check] = [
    a_listing_with_a_failing_page_fails,
    a_busy_server_is_waited_for,
    a_dropped_connection_is_tried_again,
    a_half_made_call_is_completed_by_the_same_call,
    a_change_that_was_made_but_not_answered_counts,
]
