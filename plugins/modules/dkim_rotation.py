#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dkim_rotation
short_description: Make, rotate and revoke DKIM signing keys
version_added: "0.1.0"
author: mailwright contributors (@mailwright)
description:
  - Makes sure that every domain has an active RSA-2048 key, and an Ed25519 key beside it.
  - Replaces each key after O(rotate_after) days. The new key signs only after all authoritative servers have had its
    record for as long as caches may deny it; the old record stays for the mail under way, is then revoked
    (an empty C(p=)) and later removed.
  - Without O(observations) only keys are generated that are due; nothing else moves. So a first key signs at once.
  - Keys never leave the host. What is to be published comes back as RV(records); what the DNS says is handed in as
    O(observations) of the next run. The module itself asks no DNS.
  - A key file is never rewritten and a selector never used again. A revoked selector keeps an empty file
    C(SELECTOR.revoked), so that it stays revoked when an old state file is restored.
  - The key file is on disk before the state names it, and a run that was killed anywhere is continued by the next one.
  - Waiting time passes only when the clocks of host and observer agree within an hour, at most two days with each run.
requirements:
  - python3-cryptography on the host, for generating
options:
  path:
    description: Directory of the keys, with one directory for each domain.
    type: path
    default: /var/lib/mailwright/dkim
  domains:
    description:
      - The domains that sign, in lower-case A-label form.
      - Keys of a domain that is not listed any more stop signing, and keep their records until they have retired.
    type: list
    elements: str
    required: true
  ed25519:
    description: Whether Ed25519 keys sign beside the RSA keys.
    type: bool
    default: true
  observations:
    description:
      - What the authoritative servers of each domain say of the records in RV(records).
      - Leave it out where the DNS was not asked.
    type: list
    elements: dict
    default: []
    suboptions:
      domain:
        description: The domain.
        type: str
        required: true
      selector:
        description: The selector.
        type: str
        required: true
      sight:
        description:
          - V(live) - every address of every authoritative server has the wanted text, and nothing else.
          - V(absent) - none of them has a record.
          - V(other) - they agree on something else.
          - V(mixed) - they disagree.
          - V(unknown) - not all of them answered.
        type: str
        required: true
        choices: [live, absent, other, mixed, unknown]
      text:
        description:
          - The text that was seen where it was not the wanted one; of several one with an empty C(p=), if there is one.
          - Without it a key that a newer state has revoked cannot be told from one whose record somebody replaced.
        type: str
      observed:
        description: When the servers were asked, as ISO 8601 with an offset, by the observer's clock.
        type: str
        required: true
      ttl:
        description: Time to live of the record, in seconds.
        type: int
        default: 3600
      negative_ttl:
        description: Negative time to live of the zone (RFC 2308), in seconds.
        type: int
        default: 3600
  compromised:
    description:
      - Keys that somebody else may have. They are revoked at once, without retiring, as soon as signing goes on
        without them; an Ed25519 key therefore in the same run, an RSA key when its successor has propagated and the
        filter's configuration does not name it any more.
      - Mail under way that they have signed fails verification from then on.
    type: list
    elements: dict
    default: []
    suboptions:
      domain:
        description: The domain.
        type: str
        required: true
      selectors:
        description:
          - The selectors.
          - Left out, it is all keys that the domain has; naming it again within a day is the same emergency and
            does not revoke the new keys.
        type: list
        elements: str
  delegated:
    description:
      - Of O(domains), those whose owner leads the names of their keys elsewhere by CNAME, once for all.
      - Their new keys have selectors that are known ahead; none is used twice.
    type: list
    elements: str
    default: []
  immediate:
    description:
      - Whether compromised keys are revoked before their successors are published.
      - Until the new record is seen by receivers, mail then fails verification.
    type: bool
    default: false
  rotate_after:
    description: Days for which a key is used.
    type: int
    default: 180
  retire_for:
    description: Days for which the record of a key that signs no longer is kept, at least.
    type: int
    default: 7
  revoked_for:
    description: Days for which a revoked key keeps its record with an empty C(p=).
    type: int
    default: 30
  queue_lifetime:
    description: Hours for which a message may be in the queue; what retires stays as long, and the TTL longer.
    type: int
    default: 120
  ttl:
    description: Time to live with which the records are published, in seconds.
    type: int
    default: 3600
  filter_configurations:
    description:
      - Files of the filter's configuration. A key whose selector stands in one of them, in double quotes, is in use.
      - A key in use does not come nearer to its revocation, and its file is not deleted.
    type: list
    elements: path
    default: [/etc/rspamd/local.d/dkim_signing.conf, /etc/rspamd/local.d/arc.conf]
  now:
    description:
      - The time to act upon, as ISO 8601 with an offset, in place of the host's clock.
      - For tests, which let months pass in seconds.
    type: str
  owner:
    description: Owner of all files and directories.
    type: str
    default: root
  group:
    description: Group that may read the keys.
    type: str
    default: _rspamd
attributes:
  check_mode:
    description:
      - Can run in check mode, also before the group and the library exist.
      - A key that would be generated is listed with a selector that ends in C(0000), an empty public key
        and RV(keys.planned=true).
    support: full
  diff_mode:
    description: Shows each key's state, and corrected access; never a key.
    support: full
"""

EXAMPLES = r"""
- name: Make sure that every domain has signing keys
  mailwright.server.dkim_rotation:
    domains: "{{ mail_model.domains | map(attribute='name') }}"
  register: dkim

- name: Move the keys on by what the DNS says
  mailwright.server.dkim_rotation:
    domains: "{{ mail_model.domains | map(attribute='name') }}"
    observations:
      - domain: acme.test
        selector: 20260301rk3x9
        sight: live
        observed: "2026-03-01T12:00:00+00:00"
        ttl: 3600
        negative_ttl: 900

- name: Replace a key that somebody else may have
  mailwright.server.dkim_rotation:
    domains: "{{ mail_model.domains | map(attribute='name') }}"
    compromised:
      - {domain: acme.test, selectors: [20260301rk3x9]}
"""

RETURN = r"""
keys:
  description:
    - The keys that have a record, by domain; also of domains that are not listed any more.
    - In a template write C(result['keys']), since C(result.keys) is a method.
  returned: always
  type: dict
  contains:
    selector:
      description: Selector of the key.
      type: str
    algorithm:
      description: V(rsa) or V(ed25519).
      type: str
    state:
      description: V(generated), V(published), V(propagated), V(active), V(retiring) or V(revoked).
      type: str
    since:
      description: When the key came into its state, as ISO 8601.
      type: str
    live:
      description: Whether all authoritative servers had its record when they were last asked with success.
      type: bool
    next:
      description: What happens to the key next.
      type: str
    next_at:
      description: When, at the earliest, as ISO 8601; null where something has to be seen in the DNS first.
      type: str
    signs:
      description: Whether mail is to be signed with it.
      type: bool
    path:
      description: File of the private key on the host.
      type: str
    dns:
      description: Text that its TXT record has to have, not split into strings.
      type: str
    planned:
      description: Whether the key does not exist yet (in check mode only).
      type: bool
  sample:
    acme.test:
      - selector: 20260301rk3x9
        algorithm: rsa
        state: active
        since: "2026-03-01T12:00:00+00:00"
        live: true
        next: rotated
        next_at: "2026-08-28T12:00:00+00:00"
        signs: true
        path: /var/lib/mailwright/dkim/acme.test/20260301rk3x9.key
        dns: "v=DKIM1; k=rsa; p=MIIBIjAN..."
        planned: false
records:
  description: The TXT records that have to be published now, and no others of these domains' selectors, by name.
  returned: always
  type: dict
  sample: {20260301rk3x9._domainkey.acme.test.: "v=DKIM1; k=rsa; p=MIIBIjAN..."}
generated:
  description: Domains for which a key was generated, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: [acme.test]
orphaned:
  description: Domains that still have keys and are not listed.
  returned: always
  type: list
  elements: str
  sample: []
ignored:
  description: Domains whose observations were not used, as they are more than an hour off the host's clock.
  returned: always
  type: list
  elements: str
  sample: []
"""

import contextlib
import fcntl
import itertools
import os
import secrets as random_source
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.mailwright.server.plugins.module_utils.dkim.generate import (
    LIBRARY_ERROR,
    generate_keys,
    public_text,
)
from ansible_collections.mailwright.server.plugins.module_utils.dkim.rotation import (
    Action,
    Bury,
    Erase,
    Generate,
    Observations,
    Policy,
    Sighting,
    agrees,
    next_event,
    signing,
    step,
    wanted_records,
)
from ansible_collections.mailwright.server.plugins.module_utils.dkim.state import (
    ALGORITHMS,
    STATE_FILE,
    Key,
    State,
    algorithm_of,
    new_selector,
    numbered_selector,
    parse_domains,
    parse_state,
    parse_time,
    planned_selector,
    render_state,
    wanted_text,
)
from ansible_collections.mailwright.server.plugins.module_utils.secrets.files import (
    Access,
    access_of,
    make_directory,
    set_access,
    sync_directory,
    unknown_names,
    write_atomic,
)

KEY = ".key"
TOMBSTONE = ".revoked"
DAY = 86400.0


class Store:
    """The directory of keys."""

    def __init__(self, path: str, owner: str, group: str) -> None:
        self.path = path
        self.directory_access = Access(owner, group, 0o750)
        self.file_access = Access(owner, group, 0o640)

    def file(self, domain: str, name: str) -> str:
        """Path of a domain's file."""
        return os.path.join(self.path, domain, name)

    def read(self, domain: str) -> State:
        """Read a domain's state. Raises ValueError when it is unreadable."""
        path = self.file(domain, STATE_FILE)
        try:
            with open(path, encoding="utf-8") as stream:
                return parse_state(stream.read())
        except FileNotFoundError:
            return State()
        except ValueError as error:
            raise ValueError(f"{path}: {error}; restore it from a backup") from error

    def names(self, domain: str, suffix: str) -> frozenset[str]:
        """Selectors of which the domain has a file with this suffix."""
        try:
            found = os.listdir(os.path.join(self.path, domain))
        except FileNotFoundError:
            return frozenset()
        return frozenset(name.removesuffix(suffix) for name in found if name.endswith(suffix))

    def found(self, domain: str, selector: str) -> tuple[str, str] | None:
        """Algorithm and record text of a key file that no state names; None: it is not one of ours, or not whole."""
        algorithm = algorithm_of(selector)
        if algorithm is None:
            return None
        with open(self.file(domain, selector + KEY), "rb") as stream:
            text = public_text(algorithm, stream.read())
        return (algorithm, text) if text else None

    def write(self, domain: str, name: str, content: bytes) -> None:
        """Write a file of a domain, whole or not at all."""
        if not os.path.isdir(os.path.join(self.path, domain)):
            make_directory(os.path.join(self.path, domain), self.directory_access)
        write_atomic(self.file(domain, name), content, self.file_access)

    def erase(self, domain: str, selector: str) -> None:
        """Delete a private key."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.file(domain, selector + KEY))
        sync_directory(os.path.join(self.path, domain))

    def drifted(self, states: dict[str, State], files: dict[str, frozenset[str]]) -> dict[str, tuple[Access, Access]]:
        """Existing paths whose access is wrong: (found, wanted). Raises ValueError for a link or a special file."""
        wanted = {self.path: self.directory_access}
        for domain, state in states.items():
            wanted[os.path.join(self.path, domain)] = self.directory_access
            wanted[self.file(domain, STATE_FILE)] = self.file_access
            for key in state.keys:
                if key.selector in files[domain]:
                    wanted[self.file(domain, key.selector + KEY)] = self.file_access
        found = {path: (access_of(path), access) for path, access in wanted.items()}
        return {path: (now, access) for path, (now, access) in found.items() if now is not None and now != access}

    def domains(self) -> list[str]:
        """Domains that have a state file."""
        try:
            with os.scandir(self.path) as entries:
                return sorted(entry.name for entry in entries if os.path.isfile(os.path.join(entry.path, STATE_FILE)))
        except FileNotFoundError:
            return []


class Rotation:
    """One run: all domains' states as they are, and as they become."""

    def __init__(self, module: AnsibleModule, store: Store, now: datetime) -> None:
        self.module, self.store, self.now = module, store, now
        parameters = module.params
        self.policy = Policy(
            algorithms=ALGORITHMS if parameters["ed25519"] else ("rsa",),
            rotate_after=parameters["rotate_after"] * DAY,
            retire_for=parameters["retire_for"] * DAY,
            revoked_for=parameters["revoked_for"] * DAY,
            queue_lifetime=parameters["queue_lifetime"] * 3600.0,
            ttl=float(parameters["ttl"]),
            immediate=parameters["immediate"],
        )
        self.compromised: dict[str, frozenset[str] | None] = {
            entry["domain"]: None if entry["selectors"] is None else frozenset(entry["selectors"])
            for entry in parameters["compromised"]
        }
        self.sightings: dict[str, dict[str, Sighting]] = {}
        for entry in parameters["observations"]:
            self.sightings.setdefault(entry["domain"], {})[entry["selector"]] = Sighting(
                entry["sight"],
                parse_time(entry["observed"]),
                float(entry["ttl"]),
                float(entry["negative_ttl"]),
                entry["text"],
            )
        self.configuration = _read_all(parameters["filter_configurations"])
        self.before: dict[str, State] = {}
        self.after: dict[str, State] = {}
        self.observations: dict[str, Observations] = {}
        self.planned: set[str] = set()

    def read(self) -> list[str]:
        """Read all states and files; gives what is wrong with them."""
        errors = []
        for domain in sorted({*self.store.domains(), *self.module.params["domains"]}):
            try:
                self.before[domain] = self.store.read(domain)
                self.observations[domain] = self.observe(domain, self.before[domain])
            except ValueError as error:
                errors.append(str(error))
        return errors

    def unknown_compromised(self) -> list[str]:
        """Say which compromised keys the host never had: an emergency must not pass over a misspelt name."""
        errors = []
        for index, entry in enumerate(self.module.params["compromised"]):
            domain = entry["domain"]
            if not self.before.get(domain, State()).keys:
                errors.append(f"compromised[{index}]: {domain!r} has no keys")
                continue
            state = self.before[domain]
            known = {key.selector for key in state.keys} | state.used | self.observations[domain].tombstones
            errors += [
                f"compromised[{index}]: {domain!r} has no key {selector!r}"
                for selector in entry["selectors"] or []
                if selector not in known
            ]
        return errors

    def observe(self, domain: str, state: State) -> Observations:
        """Gather what is seen of a domain."""
        files, tombstones = self.store.names(domain, KEY), self.store.names(domain, TOMBSTONE)
        selectors = {key.selector for key in state.keys}
        # without the library nothing can be read; a plan does without
        strays = sorted(files - selectors - tombstones - state.used) if not LIBRARY_ERROR else []
        found = {selector: self.store.found(domain, selector) for selector in strays}
        return Observations(
            sightings=self.sightings.get(domain, {}),
            files=files,
            found={selector: pair for selector, pair in found.items() if pair},
            tombstones=tombstones,
            configured=frozenset(name for name in selectors | files if f'"{name}"' in self.configuration),
        )

    def step(self, domain: str) -> tuple[State, list[Action]]:
        """Step one domain."""
        wanted = domain in self.module.params["domains"]
        policy = replace(self.policy, wanted=wanted, compromised=self.compromised.get(domain, frozenset()))
        return step(self.before[domain], self.now, self.observations[domain], policy)

    def add(self, domain: str, algorithm: str, selector: str, dns: str) -> None:
        """Let the next step find a new key."""
        seen = self.observations[domain]
        self.observations[domain] = replace(
            seen, files=seen.files | {selector}, found={**seen.found, selector: (algorithm, dns)}
        )

    def plan(self) -> list[tuple[str, str]]:
        """Step all domains; gives the keys that are missing, as (domain, algorithm)."""
        missing = []
        for domain in self.before:
            self.after[domain], actions = self.step(domain)
            missing += [(domain, action.algorithm) for action in actions if isinstance(action, Generate)]
        return missing

    def pretend(self, missing: list[tuple[str, str]]) -> None:
        """Step with keys that do not exist, for the plan."""
        for domain, algorithm in missing:
            delegated = domain in self.module.params["delegated"]
            selector = self.unused_selector(domain, algorithm) if delegated else planned_selector(self.now, algorithm)
            self.planned.add(selector)
            self.add(domain, algorithm, selector, f"v=DKIM1; k={algorithm}; p=")
        for domain in sorted({domain for domain, _algorithm in missing}):
            self.after[domain], _actions = self.step(domain)

    def carry_out(self, missing: list[tuple[str, str]]) -> None:
        """Write what the plan says: domain by domain, so that a killed run has finished some and spoilt none."""
        waiting = [domain for domain, _algorithm in missing]
        for domain in self.before:
            if domain not in waiting:
                self.finish(domain)
        keys = generate_keys([algorithm for _domain, algorithm in missing])
        for (domain, algorithm), (private_key, dns) in zip(missing, keys, strict=True):
            selector = self.unused_selector(domain, algorithm)
            self.store.write(domain, selector + KEY, private_key)
            self.add(domain, algorithm, selector, dns)
            waiting.remove(domain)
            if domain not in waiting:
                self.finish(domain)

    def unused_selector(self, domain: str, algorithm: str) -> str:
        """Choose a selector that the domain never had."""
        seen = self.observations[domain]
        taken = (
            seen.files | seen.tombstones | self.before[domain].used | {key.selector for key in self.before[domain].keys}
        )
        if domain in self.module.params["delegated"]:
            numbered = (numbered_selector(domain, number, algorithm) for number in itertools.count(1))
            return next(selector for selector in numbered if selector not in taken)
        while (selector := new_selector(self.now, algorithm, random_source.choice)) in taken:
            pass
        return selector

    def finish(self, domain: str) -> None:
        """Write a domain's tombstones, then its state, then delete what is revoked."""
        self.after[domain], actions = self.step(domain)
        for action in actions:
            if isinstance(action, Bury):
                self.store.write(domain, action.selector + TOMBSTONE, b"")
        if self.after[domain] != self.before[domain]:
            self.store.write(domain, STATE_FILE, render_state(self.after[domain]).encode())
        for action in actions:
            if isinstance(action, Erase):
                self.store.erase(domain, action.selector)

    def ignored(self) -> list[str]:
        """Domains whose observations were made at another time than this host's clock shows."""
        return sorted(
            domain
            for domain, sightings in self.sightings.items()
            if not any(agrees(sighting, self.now) for sighting in sightings.values())
        )


def _read_all(paths: list[str]) -> str:
    text = ""
    for path in paths:
        with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as stream:
            text += stream.read()
    return text


def lines(states: dict[str, State]) -> Iterator[str]:
    """The states as a plan shows them: what decides on records and signatures, not the waiting time."""
    for domain, state in sorted(states.items()):
        for key in state.keys:
            words = ["live"] * key.live + ["compromised"] * key.compromised
            yield " ".join([domain, key.algorithm, key.selector, key.state, *words]) + "\n"


def check_parameters(module: AnsibleModule, store: Store) -> list[str]:
    """Say what is wrong with the parameters."""
    errors = parse_domains(module.params["domains"])
    if not module.check_mode:
        errors.extend(f"this host has no {name}" for name in unknown_names(store.file_access))
    times = [("now", module.params["now"])] if module.params["now"] else []
    times += [
        (f"observations[{i}].observed", entry["observed"]) for i, entry in enumerate(module.params["observations"])
    ]
    for name, text in times:
        try:
            parse_time(text)
        except ValueError as error:
            errors.append(f"{name}: {error}")
    return errors


def run(module: AnsibleModule) -> dict[str, Any]:
    """Read all state, step it, then write what has changed and correct what has drifted."""
    store = Store(module.params["path"], module.params["owner"], module.params["group"])

    def fail(errors: list[str]) -> None:
        if errors:
            module.fail_json(msg="DKIM keys cannot be ensured: " + "; ".join(errors), errors=errors)

    fail(check_parameters(module, store))
    created_store = not os.path.isdir(store.path)
    lock = None
    if not module.check_mode:
        if created_store:
            make_directory(store.path, store.directory_access)
        # Two applies at once would otherwise both generate and one would return a selector that lost.
        lock = os.open(store.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)

    # after the lock: a run that waited must not act on the time before
    now = parse_time(module.params["now"]) if module.params["now"] else datetime.now(UTC).replace(microsecond=0)
    rotation = Rotation(module, store, now)
    fail(rotation.read())
    fail(rotation.unknown_compromised())
    drifted: dict[str, tuple[Access, Access]] = {}
    try:
        drifted = store.drifted(rotation.before, {domain: seen.files for domain, seen in rotation.observations.items()})
    except ValueError as error:
        fail([str(error)])

    missing = rotation.plan()
    if module.check_mode:
        rotation.pretend(missing)
    else:
        if missing and LIBRARY_ERROR:
            module.fail_json(msg=missing_required_lib("cryptography"), exception=LIBRARY_ERROR)
        rotation.carry_out(missing)
        for path, (_found, access) in drifted.items():
            set_access(path, access)
    if lock is not None:
        os.close(lock)
    for domain in rotation.ignored():
        module.warn(f"{domain}: the observations are more than an hour off this host's clock ({now}) and are not used")
    return result(rotation, missing, drifted, created_store)


def result(
    rotation: Rotation, missing: list[tuple[str, str]], drifted: dict[str, tuple[Access, Access]], created_store: bool
) -> dict[str, Any]:
    """What the module returns."""
    wanted = rotation.module.params["domains"]
    states = {domain: state for domain, state in rotation.after.items() if state.keys}
    signs = {(domain, key.selector) for domain, keys in signing(states).items() if domain in wanted for key in keys}

    def described(domain: str, key: Key) -> dict[str, Any]:
        event, moment = next_event(key, rotation.now, rotation.policy)
        return {
            "selector": key.selector,
            "algorithm": key.algorithm,
            "state": key.state,
            "since": key.since.isoformat(),
            "live": key.live,
            "next": event,
            "next_at": moment.isoformat() if moment else None,
            "signs": (domain, key.selector) in signs,
            "path": rotation.store.file(domain, key.selector + KEY),
            "dns": wanted_text(key),
            "planned": key.selector in rotation.planned,
        }

    before, after = "".join(lines(rotation.before)), "".join(lines(rotation.after))
    return {
        "changed": bool(missing or drifted or created_store or before != after),
        "keys": {domain: [described(domain, key) for key in state.keys] for domain, state in states.items()},
        "records": wanted_records(states),
        "generated": sorted({domain for domain, _algorithm in missing}),
        "orphaned": sorted(set(states) - set(wanted)),
        "ignored": rotation.ignored(),
        "diff": {
            "before": "".join(f"{path} {found}\n" for path, (found, _access) in sorted(drifted.items())) + before,
            "after": "".join(f"{path} {access}\n" for path, (_found, access) in sorted(drifted.items())) + after,
        },
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/var/lib/mailwright/dkim"},
            "domains": {"type": "list", "elements": "str", "required": True},
            "delegated": {"type": "list", "elements": "str", "default": []},
            "ed25519": {"type": "bool", "default": True},
            "observations": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "domain": {"type": "str", "required": True},
                    "selector": {"type": "str", "required": True},
                    "sight": {
                        "type": "str",
                        "required": True,
                        "choices": ["live", "absent", "other", "mixed", "unknown"],
                    },
                    "text": {"type": "str"},
                    "observed": {"type": "str", "required": True},
                    "ttl": {"type": "int", "default": 3600},
                    "negative_ttl": {"type": "int", "default": 3600},
                },
            },
            "compromised": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "domain": {"type": "str", "required": True},
                    "selectors": {"type": "list", "elements": "str"},
                },
            },
            "immediate": {"type": "bool", "default": False},
            "rotate_after": {"type": "int", "default": 180},
            "retire_for": {"type": "int", "default": 7},
            "revoked_for": {"type": "int", "default": 30},
            "queue_lifetime": {"type": "int", "default": 120},
            "ttl": {"type": "int", "default": 3600},
            "filter_configurations": {
                "type": "list",
                "elements": "path",
                "default": ["/etc/rspamd/local.d/dkim_signing.conf", "/etc/rspamd/local.d/arc.conf"],
            },
            "now": {"type": "str"},
            "owner": {"type": "str", "default": "root"},
            "group": {"type": "str", "default": "_rspamd"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except OSError as error:
        module.fail_json(msg=f"DKIM keys cannot be ensured: {error}")


if __name__ == "__main__":
    main()
