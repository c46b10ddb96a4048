# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Domains that tenants bring by the sending API: proved in the lab's DNS, then with real mail in and out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
import zones
from ansible_collections.mailwright.server.plugins.module_utils.sending import keys
from ansible_collections.mailwright.server.tests.integration.conftest import Server
from ansible_collections.mailwright.server.tests.integration.sending import Api, sql
from connection import CHECKOUT, Lab, message, wait_until

SECRET = "a long enough secret"
STORE = "/var/lib/mailwright/dkim-api"
TENANTS = ("first", "second")


@dataclass
class Place:
    """The lab's DNS, the host, and two tenants that have nothing yet."""

    lab: Lab
    server: Server
    first: Api
    second: Api
    keys: dict[str, keys.Key]
    published: list[tuple[str, str]] = field(default_factory=list)

    def sql(self, statement: str) -> str:
        return sql(self.lab, self.server.name, statement)

    @property
    def tsig(self) -> str:
        return str(json.loads((self.lab.state / "lab.json").read_text())["tsig"])

    def publish(self, records: Sequence[dict[str, Any]]) -> None:
        """Put records into peer.test, as their owner would, and let nobody wait for what caches remember."""
        lines = []
        for record in records:
            value = record["value"]
            if record["type"] == "TXT":
                value = " ".join(f'"{value[at : at + 255]}"' for at in range(0, len(value), 255))
            lines.append(f"{record['name']}. 60 IN {record['type']} {value}")
            self.published.append((record["name"], record["type"]))
        zones.publish_text(self.lab.address("ns1"), self.tsig, "\n".join(lines))
        self.forget()

    def withdraw(self) -> None:
        for name, kind in self.published:
            rrset = dns.rrset.RRset(dns.name.from_text(f"{name}."), dns.rdataclass.IN, dns.rdatatype.from_text(kind))
            zones.send(self.lab.address("ns1"), self.tsig, "peer.test.", [rrset], delete=True)
        self.published.clear()
        self.forget()

    def forget(self) -> None:
        for host in (self.server.name, "peer"):
            self.lab.ssh(host, "unbound-control -q flush_zone peer.test", check=False)

    def claim(self, api: Api, name: str) -> dict[str, Any]:
        answer = api.ask("POST", "/domains", {"name": name})
        assert answer.status == 201, answer
        made: dict[str, Any] = answer.body
        return made

    def verify(self, api: Api, name: str, state: str = "active") -> dict[str, Any]:
        """Have it looked at, until that was done and it is in this state."""
        before = api.ask("GET", f"/domains/{name}").body["looked_at"]
        assert api.ask("POST", f"/domains/{name}/verify").status == 202

        def settled() -> dict[str, Any] | None:
            shown: dict[str, Any] = api.ask("GET", f"/domains/{name}").body
            return shown if shown["state"] == state and shown["looked_at"] != before else None

        try:
            return wait_until(settled, 180, f"{name} {state}")
        except TimeoutError:
            log = self.server.run("journalctl -u 'mailwright-domains*' -u mailwright-webhooks -n 40 --no-pager")
            raise AssertionError(f"{api.ask('GET', f'/domains/{name}').body}\n{log}") from None

    def refresh_filter(self) -> None:
        """Without this, its processes that have had mail stay for 50 seconds, and so long a new domain waits."""
        self.server.run("systemctl restart rspamd")

    def bring(self, api: Api, name: str) -> dict[str, Any]:
        self.publish(self.claim(api, name)["records"][:1])
        return self.verify(api, name)

    def has(self, address: str, token: str) -> bool:
        with self.lab.imap(address, self.server.name, SECRET) as box:
            box.select(readonly=True)
            return bool(box.search(None, "HEADER", "Subject", f'"{token}"')[1][0])

    def remove(self) -> None:
        """What the tests left, as if it had never been."""
        names = "SELECT name FROM directory.domain WHERE owner = 'api'"
        self.sql(f"""
            DELETE FROM directory.mailbox WHERE domain IN ({names});
            DELETE FROM directory.alias WHERE domain IN ({names});
            DELETE FROM api.tenant_domain WHERE domain IN ({names});
            DELETE FROM directory.domain WHERE owner = 'api';
            DELETE FROM api.domain_claim;
            SELECT api.forget_domain(name) FROM api.domain_holder WHERE name LIKE '%.peer.test'""")
        self.server.run(f"rm -rf {STORE}/* /var/vmail/*.peer.test; systemctl start mailwright-domains.service")


@pytest.fixture(scope="module")
def tenants(lab: Lab, server: Server) -> Iterator[Place]:
    made = {name: keys.generate() for name in TENANTS}
    rows = ", ".join(
        f"('{key.id}', '{name}', 'all', '\\x{key.digest.hex()}', '{{{','.join(keys.SCOPES)}}}')"
        for name, key in made.items()
    )
    first, second = (Api(lab, server.name, made[name].text) for name in TENANTS)
    place = Place(lab, server, first, second, made)
    try:
        names = ", ".join(f"('{name}', 'inventory')" for name in TENANTS)
        place.sql(f"INSERT INTO api.tenant (name, owner) VALUES {names}")
        place.sql(f"INSERT INTO api.tenant_key (id, tenant, name, hash, scopes) VALUES {rows}")
        yield place
    finally:
        place.remove()
        place.sql(f"DELETE FROM api.tenant WHERE name IN {TENANTS}")


@pytest.fixture
def place(tenants: Place) -> Iterator[Place]:
    """Tests begin and end without a domain of either."""
    try:
        yield tenants
    finally:
        tenants.withdraw()
        tenants.remove()


@pytest.fixture
def name(token: str) -> str:
    return f"d{token[5:15]}.peer.test"


def mailbox(api: Api, address: str) -> None:
    place = {"Mail-Domain": address.partition("@")[2]}
    answer = api.ask("POST", "/mailboxes", {"address": address, "password": SECRET}, place)
    assert answer.status == 201, answer


def test_a_domain_comes_sends_and_receives(place: Place, name: str, token: str) -> None:
    """Nothing of it is accepted before its proof; then it is signed for."""
    place.refresh_filter()
    claimed = place.claim(place.first, name.upper())
    assert (claimed["name"], claimed["state"]) == (name, "pending")
    proof = claimed["records"][0]
    assert (proof["name"], proof["type"]) == (f"_mailwright.{name}", "TXT")
    assert place.first.ask("GET", "/domains").body == {"data": [], "claims": [{"name": name, "state": "pending"}]}
    assert place.claim(place.first, name)["records"] == claimed["records"]
    # not yet: neither seen nor hosted
    waits = place.verify(place.first, name, "pending")
    assert waits["records"][0]["seen"] is False and proof["name"] in waits["problem"]
    assert place.first.ask("GET", "/mailboxes", headers={"Mail-Domain": name}).status == 404
    assert place.sql(f"SELECT count(*) FROM directory.domain WHERE name = '{name}'") == "0"

    place.publish(waits["records"])
    active = place.verify(place.first, name)
    assert place.first.ask("GET", "/domains").body["data"] == [{"name": name}]
    (dkim,) = (record for record in active["records"] if "._domainkey." in record["name"])
    place.publish([dkim])
    seen = place.verify(place.first, name)
    assert all(record["seen"] for record in seen["records"]), seen
    assert {record["type"] for record in seen["records"]} == {"TXT", "MX", "SRV"}

    address = f"erin@{name}"
    mailbox(place.first, address)
    place.lab.dave_sends(message("dave@peer.test", address, token), place.server.name)
    wait_until(lambda: place.has(address, token), 60, "dave's mail")
    letter = {"from": address, "to": ["dave@peer.test"], "subject": f"{token} by API", "text": "Hello.\n"}
    answer = place.first.ask("POST", "/emails", letter, {"Mail-Domain": name})
    assert answer.status == 202, answer
    with place.lab.submission(address, place.server.name, SECRET) as smtp:
        smtp.send_message(message(address, "dave@peer.test", f"{token} by SMTP"))
    for way in ("API", "SMTP"):
        text = wait_until(partial(place.lab.dave_has, f"{token}.by.{way}"), 60, f"the mail by {way}")
        verdicts = " ".join(re.findall(r"^Authentication-Results: peer.*(?:\n[ \t].*)*", text, re.MULTILINE))
        assert "dkim=pass" in verdicts and f"header.d={name}" in verdicts, verdicts
        assert "dmarc=pass" in verdicts, verdicts

    refused = place.first.ask("DELETE", f"/domains/{name}")
    assert (refused.status, refused.body["code"]) == (409, "in_use")


def test_whose_a_domain_is(place: Place, name: str) -> None:
    """Anybody may claim a name; who proves it has it, and for the others it is not there."""
    place.refresh_filter()
    by_first = place.claim(place.first, name)
    by_second = place.claim(place.second, name)
    assert by_first["records"][0]["value"] != by_second["records"][0]["value"]
    place.publish(by_second["records"][:1])
    # the other's proof is none of ours
    assert place.verify(place.first, name, "pending")["records"][0]["seen"] is False
    place.verify(place.second, name)
    both = [{**by_first["records"][0]}, {**by_second["records"][0]}]
    place.publish(both)
    assert "somebody else" in place.verify(place.first, name, "blocked")["problem"]
    assert place.first.ask("DELETE", f"/domains/{name}").status == 204
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/verify"), ("GET", "/limits")):
        answer = place.first.ask(method, f"/domains/{name}{path}")
        assert (answer.status, answer.body["code"]) == (404, "not_found"), (method, path)
    assert place.first.ask("GET", "/emails", headers={"Mail-Domain": name}).status == 404
    assert place.first.ask("GET", "/domains").body == {"data": [], "claims": []}
    taken = place.first.ask("POST", "/domains", {"name": name})
    assert (taken.status, taken.body["code"]) == (409, "name_taken")
    # it is needed once: the proof may go
    place.withdraw()
    assert place.verify(place.second, name)["records"][0]["seen"] is False
    assert place.second.ask("GET", "/emails").status == 200


def test_names_that_nobody_can_claim(place: Place, name: str, acme: Api) -> None:
    for wrong in ("acme", "mx1.acme.test", "below.mx1.acme.test", "a b.test", "1.2.3.4", "x" * 64 + ".test"):
        answer = place.first.ask("POST", "/domains", {"name": wrong})
        assert (answer.status, answer.body["errors"][0]["pointer"]) == (422, "/name"), wrong
    for hosted in ("acme.test", "GLOBEX.test"):
        answer = place.first.ask("POST", "/domains", {"name": hosted})
        assert (answer.status, answer.body["code"]) == (409, "owned_by_inventory")
    # a domain's own key brings none, and does not change the inventory's
    assert acme.ask("POST", "/domains", {"name": name}).status == 403
    assert acme.ask("GET", "/domains/acme.test").body == {"name": "acme.test"}
    for method, path in (("DELETE", ""), ("POST", "/verify")):
        answer = acme.ask(method, f"/domains/acme.test{path}")
        assert (answer.status, answer.body["code"]) == (409, "owned_by_inventory")
    for number in range(20):
        place.claim(place.first, f"n{number}.{name}")
    answer = place.first.ask("POST", "/domains", {"name": name})
    assert (answer.status, answer.body["code"]) == (409, "too_many_claims")
    assert place.first.ask("DELETE", f"/domains/n0.{name}").status == 204
    place.claim(place.first, name)


def test_the_database_holds_it_without_the_service(place: Place, name: str) -> None:
    """The same questions as the service's role, and as that of the webhooks."""
    place.claim(place.first, name)

    def as_role(role: str, statements: str) -> str:
        return place.sql(f"SET ROLE {role}; SET api.actor = '{place.keys['second'].id}'; {statements};")

    for statement in ("SELECT * FROM api.domain_claim", "DELETE FROM api.domain_claim",
                      "SELECT * FROM api.domain_holder", "UPDATE api.domain_claim SET state = 'active'",
                      f"SELECT api.forget_domain('{name}')",
                      f"SELECT api.note_look('{name}', '', true, '{{}}', '')",
                      f"INSERT INTO directory.domain VALUES ('{name}', true, 'api')"):  # fmt: skip
        with pytest.raises(RuntimeError, match="permission denied"):
            as_role("mailwright_api", statement)
    with pytest.raises(RuntimeError, match="permission denied"):
        as_role("mailwright_webhooks", "UPDATE api.domain_claim SET state = 'active'")
    assert as_role("mailwright_api", "SELECT count(*) FROM api.claims()") == "0"
    assert as_role("mailwright_api", f"SELECT coalesce(api.release_domain('{name}'), 'none')") == "none"
    # a look with another claim's token says nothing of this one
    as_role("mailwright_webhooks", f"SELECT api.note_look('{name}', 'another', true, '{{}}', '')")
    assert place.first.ask("GET", f"/domains/{name}").body["state"] == "pending"


@pytest.mark.faults
def test_an_earlier_life_of_the_domain_keeps_others_out(place: Place, name: str, token: str) -> None:
    """Who gave it back finds all of it again. Others do not get it: for its mail, its rows, and for a week at all."""
    here, address = {"Mail-Domain": name}, f"erin@{name}"
    place.publish(place.claim(place.first, name)["records"])
    active = place.verify(place.first, name)
    mailbox(place.first, address)
    place.lab.dave_sends(message("dave@peer.test", address, token), place.server.name)
    wait_until(lambda: place.has(address, token), 60, "the mail")

    def give_back() -> None:
        assert place.first.ask("DELETE", f"/mailboxes/{address}", headers=here).status == 204
        assert place.first.ask("DELETE", f"/domains/{name}").status == 204
        assert place.first.ask("GET", f"/domains/{name}").status == 404
        wait_until(lambda: not place.server.run(f"ls {STORE}/{name}.conf", check=False), 60, "the end of signing")

    give_back()
    place.refresh_filter()
    assert place.sql(f"SELECT tenant, until IS NOT NULL FROM api.domain_holder WHERE name = '{name}'") == "first|t"
    again = place.bring(place.first, name)
    assert active["records"][-1]["value"] in [record["value"] for record in again["records"]]
    mailbox(place.first, address)
    assert place.has(address, token)
    suppressed = place.first.ask("POST", "/suppressions", {"address": "x@peer.test"}, here)
    assert suppressed.status == 201
    give_back()

    place.publish(place.claim(place.second, name)["records"][:1])
    problem = place.verify(place.second, name, "blocked")["problem"]
    for rest in ("mail", "suppression", "audit", "7 days"):
        assert rest in problem
    assert place.sql(f"SELECT count(*) FROM directory.domain WHERE name = '{name}'") == "0"
    forget = f"/usr/local/lib/mailwright/api/mailwright-api forget {name}"
    with pytest.raises(RuntimeError, match="move the mail away first"):
        place.server.run(forget)
    assert place.sql(f"SELECT count(*) FROM api.suppression WHERE domain = '{name}'") == "1"
    place.server.run(f"rm -r /var/vmail/{name}")
    problem = place.verify(place.second, name, "blocked")["problem"]
    assert "suppression" in problem and "(mail" not in problem
    place.server.run(forget)
    place.verify(place.second, name)
    assert place.second.ask("GET", "/suppressions").body["data"] == []
    entries = place.second.ask("GET", "/audit?limit=100").body["data"]
    assert entries and not [entry for entry in entries if "first" in str(entry)]
    with pytest.raises(RuntimeError, match="is hosted here"):
        place.server.run(forget)


def test_what_lay_here_before_keeps_everybody_out(place: Place, name: str) -> None:
    """Nobody knows whose it was."""
    place.server.run(f"install -d -o vmail -g vmail -m 700 /var/vmail/{name}")
    place.publish(place.claim(place.first, name)["records"][:1])
    assert "(mail)" in place.verify(place.first, name, "blocked")["problem"]
    place.server.run(f"rmdir /var/vmail/{name}")
    place.verify(place.first, name)


@pytest.mark.faults
def test_what_was_killed_goes_on(place: Place, name: str) -> None:
    """Between the key and the row: the row has to wait for a lock, and there it is killed."""
    place.refresh_filter()
    place.publish(place.claim(place.first, name)["records"][:1])
    held = "LOCK TABLE directory.domain IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(25);"
    try:
        place.server.run(f"systemd-run -q --unit holder su postgres -c \"psql -d mailwright -c 'BEGIN; {held}'\"")
        assert place.first.ask("POST", f"/domains/{name}/verify").status == 202
        wait_until(lambda: place.server.run(f"ls {STORE}/{name}/*.key", check=False), 60, "the key")
        (key,) = place.server.run(f"ls {STORE}/{name}").split()
        place.server.run("systemctl kill -s KILL mailwright-domains.service; systemctl stop holder", check=False)
        assert place.first.ask("GET", f"/domains/{name}").body["state"] != "active"
        wait_until(lambda: place.first.ask("GET", f"/domains/{name}").body["state"] == "active", 180, "the second run")
        assert place.server.run(f"ls {STORE}/{name}").split() == [key]
        assert place.sql(f"SELECT selector || '.key' FROM api.domain_claim WHERE name = '{name}'") == key
        assert f'"{key.removesuffix(".key")}"' in place.server.run(f"cat {STORE}/{name}.conf")
    finally:
        place.server.run("systemctl stop holder", check=False)


def test_an_apply_leaves_them_alone(place: Place, name: str) -> None:
    """It switches those of a tenant that leaves off, and says so; an inventory that wants one fails."""
    play = (str(CHECKOUT / "tests/integration/api_domains.yml"), "-l", place.server.name, "--diff")

    def apply(*tenants: str, **more: Any) -> str:
        entries = [{"name": tenant, "domains": [], "keys": [{"name": "all", "scopes": list(keys.SCOPES),
                                                             "key": place.keys[tenant].text}]}
                   for tenant in tenants]  # fmt: skip
        done = place.lab.playbook(*play, "-e", json.dumps({"more_tenants": entries, **more}))
        assert (done.returncode == 0) is (not more), done.stdout[-3000:]
        return done.stdout

    place.refresh_filter()
    active = place.bring(place.first, name)
    place.claim(place.first, f"other.{name}")
    before = place.server.run(f"cd {STORE} && find . -type f -exec sha256sum {{}} + | sort")
    assert " changed=0 " in apply(*TENANTS)
    clash = apply(*TENANTS, mail_domains__globex=[{"name": "globex.test"}, {"name": name}])
    assert f"domain {name}: exists, owned by the API" in clash
    said = apply("second")
    for line in (f"-domain {name} by the API tenant='first' enabled=yes", f"-claim of other.{name} tenant='first'",
                 f"+domain {name} by the API tenant='first' enabled=no"):  # fmt: skip
        assert line in said, said[-3000:]
    assert place.first.ask("GET", "/domains").status == 401
    apply(*TENANTS)
    shown = place.first.ask("GET", f"/domains/{name}").body
    assert [record["value"] for record in shown["records"]] == [record["value"] for record in active["records"]]
    assert place.first.ask("GET", "/emails").status == 200
    assert place.server.run(f"cd {STORE} && find . -type f -exec sha256sum {{}} + | sort") == before
