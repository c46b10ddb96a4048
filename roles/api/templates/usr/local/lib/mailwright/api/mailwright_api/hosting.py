# Managed by mailwright: changes are overwritten.
"""Makes the host ready for domains that tenants brought: a DKIM key, Rspamd that signs with it, and then the rows.

Runs as root, started by mailwright-domains.path. Each step can be taken again: whatever ends it, the next run goes on.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from ansible_collections.mailwright.server.plugins.module_utils.dkim.generate import generate_key, public_text
from ansible_collections.mailwright.server.plugins.module_utils.dkim.state import new_selector

from .settings import Settings

# One directory for each domain, and beside it what Rspamd reads of it (dkim_signing.conf).
KEYS = Path("/var/lib/mailwright/dkim-api")
MAIL = Path("/var/vmail")
# What went to somebody else's domain may be in the queue for five days, and come back as late.
REST_DAYS = 7
LEAVE_SECONDS = 90.0
TAKEN = "The domain is hosted here for somebody else."

log = logging.getLogger(__name__)


class Claim(NamedTuple):
    """A row of api.domain_claim."""

    name: str
    tenant: str
    state: str
    selector: str | None
    dkim: str | None


def run(settings: Settings) -> None:
    """Bring keys, Rspamd and rows in line with the claims."""
    with _alone(), _connect("mailwright", "mailwright") as database:
        claims = _claims(database)
        ready = [claim for claim in claims if claim.state == "active"]
        for claim in (claim for claim in claims if claim.state == "verified"):
            problem = _obstacle(database, claim)
            if problem:
                _block(database, claim, problem)
            else:
                ready.append(claim)
        keys = {claim.name: _key(claim.name) for claim in ready}
        changed = _write_signing(keys)
        new = any(claim.state == "verified" for claim in ready)
        # also where the files were written before: the run that did may not have come further
        if changed or new:
            _reload(wait=new)
        for claim in ready:
            _host(database, claim, *keys[claim.name], settings.admin)
        for claim in claims:
            database.execute(
                "DELETE FROM api.domain_claim WHERE name = %s AND tenant = %s AND state = 'leaving' AND %s = 'leaving'",
                claim[:3],
            )


def forget(name: str) -> None:
    """Remove what an earlier life of the domain left, so that somebody else can have it. Raises SystemExit."""
    if os.path.lexists(MAIL / name):
        raise SystemExit(f"{MAIL / name}: move the mail away first")
    with _alone(), _connect("mailwright", "mailwright") as database:
        known = "SELECT name FROM api.domain_holder UNION SELECT domain FROM api.audit WHERE domain IS NOT NULL"
        if name not in _names(database, known):
            raise SystemExit(f"{name}: was never hosted here")
        try:
            database.execute("SELECT api.forget_domain(%s)", (name,))
        except psycopg.errors.RaiseException as error:
            raise SystemExit(error.diag.message_primary) from None
        shutil.rmtree(KEYS / name, ignore_errors=True)
    with _webmail() as webmail:
        if webmail is not None:
            webmail.execute("DELETE FROM users WHERE split_part(username, '@', 2) = %s", (name,))


def _obstacle(database: Any, claim: Claim) -> str:
    """What would show the tenant somebody else's mail, or ''."""
    if _names(database, "SELECT name FROM directory.domain WHERE name = %s", claim.name):
        return TAKEN
    row = database.execute(
        "SELECT tenant, until > now() - make_interval(days => %s) FROM api.domain_holder WHERE name = %s",
        (REST_DAYS, claim.name),
    ).fetchone()
    if row is not None and row[0] == claim.tenant:
        return ""
    found = ["mail"] if os.path.lexists(MAIL / claim.name) else []
    found += _names(database, "SELECT api.domain_rests(%s)", claim.name)
    with _webmail() as webmail:
        if webmail is not None:
            found += _names(webmail, "SELECT 'webmail' FROM users WHERE split_part(username, '@', 2) = %s LIMIT 1",
                            claim.name)  # fmt: skip
    if row is not None and row[1]:
        found.append(f"somebody else's until less than {REST_DAYS} days ago")
    if not found:
        return ""
    log.warning("%s, claimed by the tenant %s, is blocked: %s", claim.name, claim.tenant, ", ".join(found))
    return (
        f"The host has kept something of an earlier holder of the domain ({', '.join(found)}). Its administrator must "
        "remove that, or say that it is yours."
    )


def _claims(database: Any) -> list[Claim]:
    rows = database.execute(
        "SELECT name, tenant, state, selector, dkim FROM api.domain_claim "
        "WHERE state IN ('verified', 'active', 'leaving') ORDER BY name"
    ).fetchall()
    return [Claim(*row) for row in rows]


def _block(database: Any, claim: Claim, problem: str) -> None:
    database.execute(
        "UPDATE api.domain_claim SET state = 'blocked', problem = %s "
        "WHERE name = %s AND tenant = %s AND state = 'verified'",
        (problem, claim.name, claim.tenant),
    )


def _host(database: Any, claim: Claim, selector: str, text: str, admin: str) -> None:
    """Host a domain that Rspamd signs for: all rows or none."""
    if (claim.selector, claim.dkim) != (selector, text):
        database.execute(
            "UPDATE api.domain_claim SET selector = %s, dkim = %s WHERE name = %s AND tenant = %s",
            (selector, text, claim.name, claim.tenant),
        )
    if claim.state != "verified":
        return
    with database.transaction():
        database.execute("SET LOCAL lock_timeout = '60s'")
        database.execute(
            "LOCK TABLE directory.domain, directory.mailbox, directory.alias, directory.sender "
            "IN SHARE ROW EXCLUSIVE MODE"
        )
        if _names(database, "SELECT name FROM directory.domain WHERE name = %s", claim.name):
            _block(database, claim, TAKEN)
            return
        cursor = database.execute(
            "UPDATE api.domain_claim SET state = 'active', problem = '', look_at = now() "
            "WHERE name = %s AND tenant = %s AND state = 'verified'",
            (claim.name, claim.tenant),
        )
        # given up meanwhile
        if not cursor.rowcount:
            return
        database.execute("INSERT INTO directory.domain (name, owner) VALUES (%s, 'api')", (claim.name,))
        database.execute("INSERT INTO api.tenant_domain (domain, tenant) VALUES (%s, %s)", (claim.name, claim.tenant))
        database.execute(
            "INSERT INTO api.domain_holder (name, tenant) VALUES (%s, %s) "
            "ON CONFLICT (name) DO UPDATE SET tenant = EXCLUDED.tenant, until = NULL",
            (claim.name, claim.tenant),
        )
        database.execute(
            "INSERT INTO directory.alias (address, destination, domain, owner) "
            "SELECT address, CASE WHEN address LIKE 'mail-reports@%%' THEN 'reports@mailwright.invalid' ELSE %s END, "
            "%s, 'api' FROM api.first_aliases(%s) AS a",
            (admin, claim.name, claim.name),
        )


def _key(name: str) -> tuple[str, str]:
    """Selector and text of the domain's key, which is made where there is none."""
    directory = KEYS / name
    directory.mkdir(mode=0o750, exist_ok=True)
    for path in sorted(directory.glob("*.key")):
        text = public_text("rsa", path.read_bytes())
        if text is not None:
            return path.stem, text
    selector = new_selector(datetime.now(UTC), "rsa", secrets.choice)
    content, text = generate_key("rsa")
    _write(directory / f"{selector}.key", content)
    return selector, text


def _write_signing(keys: dict[str, tuple[str, str]]) -> bool:
    """One file for each domain that is signed for; whether one was not as it should be."""
    wanted = {
        f"{name}.conf": (
            f'"{name}" {{ selectors [ {{ path = "{KEYS / name / selector}.key"; selector = "{selector}"; }} ] }}\n'
        ).encode()
        for name, (selector, _text) in keys.items()
    }
    changed = False
    for path in KEYS.glob("*.conf"):
        if path.name not in wanted:
            path.unlink()
            changed = True
    for name, content in wanted.items():
        path = KEYS / name
        if not path.exists() or path.read_bytes() != content:
            _write(path, content)
            changed = True
    return changed


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, on disk; for Rspamd's group, which is this process's."""
    part = path.with_name(f".{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fchmod(descriptor, 0o640)
        os.fsync(descriptor)
    part.rename(path)
    for directory in (path.parent, path.parent.parent):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(descriptor)
        os.close(descriptor)


def _reload(*, wait: bool) -> None:
    """Let Rspamd read its configuration; wait until nothing that has the old one takes mail any more.

    One that has had mail stays for 50 seconds, and a connection that is open goes on there: Postfix keeps some.
    """
    main, group = (_show(name) for name in ("MainPID", "ControlGroup"))
    processes = Path(f"/sys/fs/cgroup{group}/cgroup.procs")
    # 0 is a process that this system cannot see
    old = set(processes.read_text(encoding="ascii").split()) - {main, "0"}
    subprocess.run(["systemctl", "reload", "rspamd.service"], check=True, timeout=LEAVE_SECONDS)
    end = time.monotonic() + LEAVE_SECONDS
    while wait and old & set(processes.read_text(encoding="ascii").split()):
        if time.monotonic() > end:
            raise SystemExit("rspamd.service: processes with the configuration of before still run")
        time.sleep(0.1)


def _show(name: str) -> str:
    command = ["systemctl", "show", "--value", f"--property={name}", "rspamd.service"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=LEAVE_SECONDS).stdout.strip()


@contextmanager
def _alone() -> Iterator[None]:
    descriptor = os.open(KEYS, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _connect(dbname: str, user: str) -> Any:
    return psycopg.connect(
        f"host=/run/postgresql dbname={dbname} user={user} application_name=mailwright-domains", autocommit=True
    )


@contextmanager
def _webmail() -> Iterator[Any]:
    """Roundcube's database, where there is one."""
    with _connect("postgres", "postgres") as server:
        there = _names(server, "SELECT datname FROM pg_database WHERE datname = 'roundcube'")
    if not there:
        yield None
        return
    with _connect("roundcube", "postgres") as database:
        yield database if _names(database, "SELECT 'users' WHERE to_regclass('public.users') IS NOT NULL") else None


def _names(database: Any, statement: str, *values: str) -> list[str]:
    rows: Iterable[tuple[str]] = database.execute(statement, values).fetchall()
    return [re.sub(r"\s+", " ", name) for (name,) in rows]
