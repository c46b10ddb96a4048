# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's webmail for the end-to-end tests: one browser for all of them; a page shown at a failure is kept."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT / "tests/lab"), str(CHECKOUT / "tests/e2e")]

from connection import Lab  # noqa: E402
from webmail import Webmail  # noqa: E402

ALICE = "alice@acme.test"
MARK = "e2etoken"


@pytest.fixture(scope="session")
def lab() -> Lab:
    return Lab.load()


@pytest.fixture(scope="session")
def host() -> str:
    return os.environ.get("MAILWRIGHT_TEST_HOST", "mx1")


@pytest.fixture(scope="session")
def browser(lab: Lab, host: str) -> Iterator[Webmail]:
    with Webmail(lab, host) as browser:
        yield browser


@pytest.fixture(scope="session")
def inventory() -> list[str]:
    """ansible-playbook's arguments for the inventory of a host other than the lab's mx1."""
    path = os.environ.get("MAILWRIGHT_TEST_INVENTORY")
    return ["-i", path] if path else []


@pytest.fixture(scope="session", autouse=True)
def started(lab: Lab, host: str) -> str:
    """When the tests began, by the host's clock, for journalctl."""
    return lab.ssh(host, "date '+%F %T'").strip()


@pytest.fixture(scope="session", autouse=True)
def left_as_found(lab: Lab, host: str) -> Iterator[None]:
    """What the tests make in alice's mailbox goes again: messages, folders, filters; her password comes back."""

    def directory(sql: str) -> str:
        return lab.ssh(host, "psql -AtqX -U mailwright -v ON_ERROR_STOP=1 mailwright", data=sql).strip()

    before = directory(f"SELECT password FROM directory.mailbox WHERE address = '{ALICE}'")
    filters = lab.ssh(host, "cat /var/vmail/acme.test/alice/sieve/webmail.sieve 2>/dev/null", check=False)
    yield
    directory(
        f"UPDATE directory.mailbox SET password = '{before}' WHERE address = '{ALICE}' AND password <> '{before}'"
    )
    lab.ssh(host, f"doveadm auth cache flush {ALICE}")
    if filters:
        lab.ssh(host, f"doveadm sieve put -u {ALICE} -a webmail", data=filters)
    else:
        lab.ssh(host, f"doveadm sieve delete -u {ALICE} -a webmail", check=False)
    lab.ssh(host, f"doveadm expunge -u {ALICE} mailbox '*' header subject {MARK}")
    remove = f'doveadm mailbox delete -u {ALICE} -s "$name"'
    lab.ssh(host, f"doveadm mailbox list -u {ALICE} '*{MARK}*' | while read -r name; do {remove}; done")


@pytest.fixture
def alice(browser: Webmail, lab: Lab) -> Webmail:
    """The browser with alice logged in."""
    browser.login(ALICE, lab.password)
    return browser


@pytest.fixture
def token() -> str:
    """A word that no other message has."""
    return f"{MARK}{uuid.uuid4().hex[:16]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    browser = getattr(item, "funcargs", {}).get("browser")
    if report.failed and isinstance(browser, Webmail):
        picture = CHECKOUT / "build/e2e" / f"{item.name}.png"
        browser.screenshot(picture)
        report.sections.append(("webmail", f"screenshot: {picture}\nconsole: {browser.complaints}"))
    return report
