# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Publish record sets in many zones: list all, plan all, then write all, with the ledger around it (see ledger)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ansible_collections.mailwright.server.plugins.module_utils.dns.canonical import canonical_name, canonical_value
from ansible_collections.mailwright.server.plugins.module_utils.dns.ledger import (
    Ledger,
    announced,
    owned_zones,
    settled,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.ledger_file import (
    locked,
    read_ledger,
    write_ledger,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.plan import Terms, ZonePlan, plan_zone
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import (
    CredentialsError,
    Provider,
    ProviderError,
    UnreachableError,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset

WORKERS = 8
T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """Who publishes where, and on what terms. `zones`: zone -> name of its provider. `ledger`: path of the file."""

    owner: str
    zones: Mapping[str, str]
    providers: Mapping[str, Provider]
    ledger: str
    adopt: bool = False
    force_delete: bool = False
    optional: frozenset[str] = frozenset()
    workers: int = WORKERS


@dataclass(frozen=True)
class Report:
    """How a run ended. `errors`: why nothing at all was written. `done`, `failed`: zones with changes that were
    written, and those whose writing failed, with the reason."""

    plans: tuple[ZonePlan, ...] = ()
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether the plans hold a change of a record or of what is ours."""
        return any(plan.changes or plan.claims for plan in self.plans)


def parse_records(items: Any) -> tuple[list[RRset], list[str]]:
    """Read record sets given as name, type, ttl and values; all that is wrong is reported, each with its path."""
    if not isinstance(items, list):
        return [], [f"records: {type(items).__name__}: must be a list of name, type, ttl and values"]
    found: dict[tuple[str, str], RRset] = {}
    errors = []
    for index, item in enumerate(items):
        path = f"records[{index}]"
        try:
            name, kind = canonical_name(str(item["name"])), str(item["type"]).upper()
            ttl = int(item["ttl"])
            values = item["values"]
            if not isinstance(values, list) or not values:
                raise TypeError("values: must be a list that is not empty")
            if not 0 <= ttl < 2**31:
                raise ValueError(f"ttl: {ttl}: must be from 0 to 2147483647")
            rrset = RRset(name, kind, ttl, tuple(sorted({canonical_value(kind, str(value)) for value in values})))
        except KeyError as error:
            errors.append(f"{path}: has no {error.args[0]}")
            continue
        except (TypeError, ValueError) as error:
            errors.append(f"{path}: {error}")
            continue
        if (name, kind) in found:
            errors.append(f"{path}: {name} {kind} is there twice")
        found[name, kind] = rrset
    return list(found.values()), errors


def assign(records: Iterable[RRset], zones: Iterable[str]) -> tuple[dict[str, list[RRset]], list[RRset]]:
    """Give each record set to the longest zone that holds its name: (by zone, those that lie in none)."""
    by_zone: dict[str, list[RRset]] = {zone: [] for zone in zones}
    homeless = []
    for rrset in records:
        name = rrset.name
        while name and name not in by_zone:
            name = name.partition(".")[2]
        if name:
            by_zone[name].append(rrset)
        else:
            homeless.append(rrset)
    return by_zone, homeless


def publish(job: Job, wanted: Mapping[str, Sequence[RRset]], *, check: bool = False) -> Report:
    """Publish; with `check` only plan. `wanted` has every zone of the job, perhaps with nothing in it.

    Raises LedgerError. What a provider refuses is in the report.
    """
    # A plan writes nothing, not even a lock file; the ledger is replaced by rename, so a plan reads a whole one.
    with nullcontext() if check else locked(job.ledger):
        ledger = read_ledger(job.ledger)
        planned = _plan_all(job, wanted, ledger)
        if planned.errors or check:
            return planned
        intents = {plan.zone: plan.claims for plan in planned.plans if plan.claims}
        if intents:
            ledger = announced(ledger, job.owner, intents)
            write_ledger(job.ledger, ledger)
        done, failed = _apply_all(job, [plan for plan in planned.plans if plan.changes])
        if intents:
            write_ledger(job.ledger, settled(ledger, job.owner, intents.keys() - failed.keys()))
    return Report(planned.plans, (), planned.warnings, done, failed)


def _plan_all(job: Job, wanted: Mapping[str, Sequence[RRset]], ledger: Ledger) -> Report:
    claimed = owned_zones(ledger, job.owner)
    # A zone without anything wanted or owned need not even exist.
    zones = sorted(zone for zone in job.zones if wanted.get(zone) or zone in claimed)
    warnings = [
        f"zone {zone}: the ledger says that records there are ours, but the zone is not configured; they stay"
        for zone in sorted(claimed - job.zones.keys())
    ]
    broken: set[str] = set()

    def plan(zone: str) -> ZonePlan | ProviderError | None:
        name = job.zones[zone]
        if name in broken:
            return None
        provider = job.providers[name]
        terms = Terms(job.owner, name, provider.capabilities, job.adopt, job.force_delete, job.optional)
        try:
            return plan_zone(zone, terms, wanted.get(zone, ()), provider.records(zone), ledger.get(zone, {}))
        except ProviderError as error:
            # The others would most likely fail alike, each after its time-out; the run has failed already.
            if isinstance(error, UnreachableError | CredentialsError):
                broken.add(name)
            return error

    errors: list[str] = []
    plans: list[ZonePlan] = []
    skipped: dict[str, int] = {}
    for zone, outcome in zip(zones, _in_parallel(job, plan, zones), strict=True):
        if isinstance(outcome, ZonePlan):
            plans.append(outcome)
            errors += [f"zone {zone}: {error}" for error in outcome.errors]
            warnings += outcome.warnings
        elif outcome is None:
            skipped[job.zones[zone]] = skipped.get(job.zones[zone], 0) + 1
        else:
            errors.append(f"zone {zone}: provider {job.zones[zone]}: {outcome}")
    errors += [f"provider {name}: {count} more zones were not looked at for that" for name, count in skipped.items()]
    return Report(tuple(plans), tuple(errors), tuple(warnings))


def _apply_all(job: Job, plans: Sequence[ZonePlan]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Apply each plan; (zones that are done, zone -> why not). One zone's failure keeps no other from being done."""

    def apply(plan: ZonePlan) -> str | None:
        try:
            job.providers[job.zones[plan.zone]].apply(plan.zone, plan.changes)
        except ProviderError as error:
            return f"provider {job.zones[plan.zone]}: {error}"
        return None

    outcomes = list(zip(plans, _in_parallel(job, apply, plans), strict=True))
    return (
        tuple(plan.zone for plan, problem in outcomes if problem is None),
        {plan.zone: problem for plan, problem in outcomes if problem is not None},
    )


def _in_parallel(job: Job, work: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
    with ThreadPoolExecutor(job.workers) as pool:
        return list(pool.map(work, items))
