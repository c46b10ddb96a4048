# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sending API against its own description: requests made from it, and beside it, by schemathesis.

No answer may be a failure of the service (5xx), nor other than described.

MAILWRIGHT_REQUESTS: how many requests in all; MAILWRIGHT_SEED chooses them.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from ansible_collections.mailwright.server.plugins.module_utils.sending.keys import SCOPES, TENANT_SCOPES, generate
from ansible_collections.mailwright.server.tests.integration.conftest import SEED, Server
from ansible_collections.mailwright.server.tests.integration.sending import BASE, HOSTNAME, sql, temporary_keys
from connection import Lab
from requests.adapters import HTTPAdapter
from schemathesis.checks import CHECKS, not_a_server_error
from schemathesis.core.result import Ok

# what is at stake; whether an odd request is refused is a matter of taste
NAMES = ("status_code_conformance", "content_type_conformance", "response_schema_conformance",
         "response_headers_conformance")  # fmt: skip
DOMAIN = "globex.test"


class ByAddress(HTTPAdapter):
    """Reaches the host by its address, and checks its certificate by its name."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options, server_hostname=HOSTNAME, assert_hostname=HOSTNAME)


class Walker:
    """Calls each operation of the description many times."""

    def __init__(self, lab: Lab, server: Server, keys: dict[str, str]) -> None:
        """keys: of a domain ('any'), a tenant and an operator."""
        self.keys = keys
        self.base = f"https://{server.address}"
        self.session = requests.Session()
        self.session.mount(self.base, ByAddress())
        self.session.verify = lab.env["LAB_CA"]
        # a setting of the environment would come before the lab's authority
        self.session.trust_env = False
        self.session.headers.update({"Host": HOSTNAME})
        answer = self.session.get(f"{self.base}{BASE}/openapi.json", timeout=60)
        self.schema = schemathesis.openapi.from_dict(answer.json())
        self.checks = [not_a_server_error, *(CHECKS.get_one(name) for name in NAMES)]
        self.answers: Counter[str] = Counter()

    def walk(self, count: int) -> None:
        found = list(self.schema.get_all_operations())
        operations = [entry.ok() for entry in found if isinstance(entry, Ok)]
        assert len(operations) == len(found), "the description has an operation that cannot be called"
        operations = [entry for entry in operations if not entry.path.endswith("/metrics")]
        for operation in operations:
            self.examine(operation, -(-count // len(operations)))

    def examine(self, operation: Any, count: int) -> None:
        modes = list(schemathesis.GenerationMode)
        key = self.keys[operation.definition.raw.get("x-key-of", "any")]
        self.session.headers["Authorization"] = f"Bearer {key}"

        @hypothesis.seed(zlib.crc32(f"{SEED} {operation.label}".encode()))
        @hypothesis.settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(hypothesis.strategies.one_of(*(operation.as_strategy(generation_mode=m) for m in modes)))
        def call(case: Any) -> None:
            body = case.body
            # half of the messages are from and to somebody, else each would stop at its sender
            if isinstance(body, dict) and "from" in body and len(str(body)) % 2:
                case.body = {**body, "from": f"a@{DOMAIN}", "to": ["dave+walk@peer.test"]}
            response = case.call(base_url=self.base, session=self.session, verify=self.session.verify, timeout=100)
            self.answers[f"{response.status_code // 100}xx"] += 1
            case.validate_response(response, checks=self.checks)

        call()


@pytest.fixture
def walker(lab: Lab, server: Server) -> Iterator[Walker]:
    made = {"name": "walk", "domain": DOMAIN, "scopes": list(SCOPES)}
    tenant = generate()
    with temporary_keys(lab, server.name, made) as keys:
        try:
            sql(
                lab,
                server.name,
                f"""
                INSERT INTO api.tenant (name, owner) VALUES ('walk', 'api');
                INSERT INTO api.tenant_key (id, tenant, name, hash, scopes) VALUES
                ('{tenant.id}', 'walk', 'walk', '\\x{tenant.digest.hex()}', '{{{",".join(TENANT_SCOPES)}}}')""",
            )
            yield Walker(
                lab, server, {"any": keys[0], "tenant": tenant.text, "operator": lab.env["LAB_OPERATOR_KEY"]}
            )  # fmt: skip
        finally:
            sql(lab, server.name, "DELETE FROM api.tenant WHERE owner = 'api'")
            for table in ("message", "template", "stream", "suppression"):
                sql(lab, server.name, f"DELETE FROM api.{table} WHERE domain = '{DOMAIN}'")
            for table in ("alias", "mailbox"):
                sql(lab, server.name, f"DELETE FROM directory.{table} WHERE domain = '{DOMAIN}' AND owner = 'api'")
            sql(lab, server.name, f"DELETE FROM api.key WHERE domain = '{DOMAIN}' AND name <> 'walk' AND owner = 'api'")
            server.run("for id in $(mailq | sed -n 's/^\\([0-9A-Za-z]*\\)[*!]\\? .*@globex.test$/\\1/p'); "
                       "do postsuper -d $id; done")  # fmt: skip


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(300, id="300"),
        pytest.param(int(os.environ.get("MAILWRIGHT_REQUESTS", "20000")), id="all", marks=pytest.mark.faults),
    ],
)
def test_every_answer_is_as_described(walker: Walker, server: Server, count: int) -> None:
    before = server.show("mailwright-api.service", "NRestarts")
    walker.walk(count)
    print(f"  {sum(walker.answers.values())} requests, seed {SEED}: {dict(sorted(walker.answers.items()))}")
    assert sum(walker.answers.values()) >= count * 0.9
    assert walker.answers["2xx"] and walker.answers["4xx"] and not walker.answers["5xx"]
    assert server.show("mailwright-api.service", "NRestarts") == before
    log = server.run("journalctl -u mailwright-api --since -2h -o cat --no-pager | grep -c Traceback || true")
    assert log.strip() == "0"
