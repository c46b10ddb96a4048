# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rate limits of the sending API: of a key and of a domain, with several callers at once and over restarts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from ansible_collections.mailwright.server.tests.integration.conftest import Server
from ansible_collections.mailwright.server.tests.integration.sending import Api, direct_keys, sql
from connection import Lab, wait_until

HEADERS = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")


@pytest.fixture
def pair(lab: Lab, server: Server) -> Iterator[list[Api]]:
    """Two keys of acme.test; afterwards nothing of any limit is left."""
    # a window that ends meanwhile would let more in
    wait_until(lambda: time.gmtime().tm_min < 57, 240, "the hour has time left", every=5)
    with direct_keys(lab, server.name, "acme.test", "acme.test") as keys:
        try:
            yield [Api(lab, server.name, key) for key in keys]
        finally:
            sql(lab, server.name, "DELETE FROM api.domain_limit WHERE domain = 'acme.test'; DELETE FROM api.usage")


def limit(server: Server, api: Api, **rates: int) -> None:
    values = ", ".join(f"{name} = {value}" for name, value in rates.items())
    assert api.key is not None
    sql(server.lab, server.name, f"UPDATE api.key SET {values} WHERE id = '{api.key.split('_')[1]}'")


def limit_domain(server: Server, **rates: int) -> None:
    sql(server.lab, server.name, f"INSERT INTO api.domain_limit (domain, {', '.join(rates)}) "
        f"VALUES ('acme.test', {', '.join(map(str, rates.values()))})")  # fmt: skip


def post(api: Api, token: str, count: int, key: str | None = None) -> tuple[int, dict[str, str]]:
    """Send a message to so many recipients, not today, so that nothing goes out. A repetition is the same message."""
    to = [f"dave+{token}-{number}@peer.test" for number in range(count)]
    later = time.strftime("%Y-%m-%dT00:00:00Z", time.gmtime(time.time() + 2 * 86400))
    body = {"from": "news@acme.test", "to": to, "subject": token, "text": "Hello.\n", "send_at": later}
    answer = api.ask("POST", "/emails", body, {"Idempotency-Key": f"{token}-{key}"} if key else None)
    if answer.status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.body["code"] == {429: "rate_limited", 422: "over_limit"}[answer.status], answer
    return answer.status, answer.headers


def stored(server: Server, token: str) -> int:
    """How many recipients were accepted."""
    count = (
        "SELECT count(*) FROM api.recipient r JOIN api.message m ON m.id = r.message "
        f"WHERE m.subject = '{token}'"
    )  # fmt: skip
    return int(sql(server.lab, server.name, count))


def forget(server: Server, token: str) -> None:
    sql(server.lab, server.name, f"DELETE FROM api.message WHERE subject = '{token}'")


def test_a_key_makes_no_more_requests_than_it_may(server: Server, pair: list[Api]) -> None:
    limited, other = pair
    wait_until(lambda: time.gmtime().tm_sec < 40, 60, "the minute has time left")
    assert not set(HEADERS) & set(limited.ask("GET", "/domains").headers)
    limit(server, limited, requests_per_minute=4)
    for number in range(4):
        answer = limited.ask("GET", "/domains")
        assert (answer.status, answer.headers["ratelimit-limit"]) == (200, "4")
        assert answer.headers["ratelimit-remaining"] == str(3 - number)
    refused = limited.ask("GET", "/domains")
    assert (refused.status, refused.body["code"], refused.body["status"]) == (429, "rate_limited", 429)
    assert 0 < int(refused.headers["retry-after"]) == int(refused.headers["ratelimit-reset"]) <= 60
    assert refused.headers["ratelimit-remaining"] == "0"
    assert other.ask("GET", "/domains").status == 200
    # held in the database: the process knows nothing
    server.run("systemctl restart mailwright-api")
    assert limited.ask("GET", "/domains").status == 429
    # whoever knows no more than the key's id uses nothing up
    sql(server.lab, server.name, "UPDATE api.usage SET since = since - interval '1 minute'")
    assert limited.key is not None
    wrong = Api(server.lab, server.name, limited.key[:-1] + ("0" if limited.key[-1] != "0" else "1"))
    assert [wrong.ask("GET", "/domains").status for _number in range(6)] == [401] * 6
    assert limited.ask("GET", "/domains").status == 200


def test_recipients_are_counted_with_what_is_accepted_and_nothing_else(
    server: Server, pair: list[Api], token: str
) -> None:
    first, second = pair
    limit(server, first, recipients_per_hour=10)
    limit_domain(server, recipients_per_hour=15)
    shown = first.ask("GET", "/domains/acme.test/limits").body["data"]
    assert [(entry["subject"], entry["unit"], entry["limit"]) for entry in shown] == [
        ("domain", "recipients", 15), ("key", "recipients", 10)
    ]  # fmt: skip
    try:
        status, headers = post(first, token, 7, "one")
        assert status == 202 and [headers[name] for name in HEADERS[:2]] == ["10", "3"]
        # the same again is the same, not seven more
        assert post(first, token, 7, "one")[0] == 202
        status, headers = post(first, token, 4, "two")
        assert status == 429 and 0 < int(headers["retry-after"]) <= 3600
        assert stored(server, token) == 7
        assert post(first, token, 3)[0] == 202
        # what is more than the limit will never do
        assert post(first, token, 11)[0] == 422
        # five are left for the domain's other keys
        assert post(second, token, 6)[0] == 429 and post(second, token, 5)[0] == 202
        assert post(second, token, 1)[0] == 429
        assert stored(server, token) == 15
        # in the next hour, with the same Idempotency-Key
        sql(server.lab, server.name, "UPDATE api.usage SET since = since - interval '1 hour'")
        assert post(first, token, 4, "two")[0] == 202
        assert stored(server, token) == 19
    finally:
        forget(server, token)


def test_many_callers_at_once_get_what_there_is_and_no_more(server: Server, pair: list[Api], token: str) -> None:
    limit_domain(server, recipients_per_hour=40)
    limit(server, pair[0], recipients_per_hour=25)
    statuses: list[int] = []

    def call(key: str | None) -> None:
        api = Api(server.lab, server.name, key)
        for _number in range(10):
            statuses.append(post(api, token, 1)[0])

    try:
        callers = [threading.Thread(target=call, args=(api.key,)) for api in pair for _number in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert sorted(set(statuses)) == [202, 429] and len(statuses) == 80
        assert statuses.count(202) == stored(server, token) == 40
    finally:
        forget(server, token)


def test_a_key_made_by_a_limited_key_is_as_limited(server: Server, pair: list[Api]) -> None:
    limit(server, pair[0], requests_per_minute=50, recipients_per_hour=6)
    made = pair[0].ask("POST", "/api-keys", {"name": "child", "scopes": ["emails.write", "domains.read"]})
    assert made.status == 201
    try:
        assert (made.body["requests_per_minute"], made.body["recipients_per_hour"]) == (50, 6)
        child = Api(server.lab, server.name, made.body["key"])
        assert child.ask("GET", "/domains").headers["ratelimit-limit"] == "50"
    finally:
        pair[0].ask("DELETE", f"/api-keys/{made.body['id']}")
