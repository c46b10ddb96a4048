# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Comparing mailboxes, and other systems' dumps: made by hand after the systems' own set-up files."""

# ruff: noqa: E501  # dumps have long lines

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.migrate.accounts import inventory
from ansible_collections.mailwright.server.plugins.module_utils.migrate.compare import Message, compare
from ansible_collections.mailwright.server.plugins.module_utils.migrate.converters import (
    iredmail,
    mailcow,
    mailinabox,
    stalwart,
)
from ansible_collections.mailwright.server.plugins.module_utils.migrate.sqldump import DumpError, tables
from ansible_collections.mailwright.server.plugins.modules.account_import import checked, read

SEEN = frozenset({"\\Seen"})
A, B = Message("a" * 64, 10, 1000, SEEN), Message("b" * 64, 20, 2000, frozenset())


def test_all_there_and_more() -> None:
    verdict = compare({"INBOX": [A, B, B]}, {"INBOX": [B, A, B, A], "New": [A]})
    assert verdict.complete
    assert (verdict.folders, verdict.messages, verdict.octets, verdict.lines()) == (1, 3, 50, [])


@pytest.mark.parametrize(
    ("target", "line", "complete"),
    [
        ({}, "folder 'INBOX' is missing", False),
        ({"INBOX": [A]}, "INBOX: 2 messages are missing", False),
        ({"INBOX": [A, B]}, "INBOX: 1 messages are missing", False),
        ({"INBOX": [A, B, B._replace(digest="c" * 64)]}, "INBOX: 1 messages are missing", False),
        ({"INBOX": [A, B, B._replace(date=2001)]}, "INBOX: 1 messages are there with another date", False),
        ({"INBOX": [A._replace(flags=frozenset()), B, B]}, "INBOX: 1 messages are there with other flags", True),
        ({"Other": [A, B, B]}, "folder 'INBOX' is missing", False),
    ],
)
def test_what_is_wrong(target: dict[str, list[Message]], line: str, complete: bool) -> None:
    verdict = compare({"INBOX": [A, B, B]}, target)
    assert verdict.lines()[0] == line
    assert verdict.complete is complete


ARGON2 = "$argon2id$v=19$m=65536,t=3,p=1$c29tZXNhbHRzYWx0$" + "A" * 43
BCRYPT = "$2y$10$" + "a" * 53
SHA512 = "$6$salt$" + "x" * 86

MAILCOW = rf"""
-- MariaDB dump
DROP TABLE IF EXISTS `domain`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
CREATE TABLE `domain` (
  `domain` varchar(255) NOT NULL,
  `description` varchar(255) DEFAULT NULL,
  `quota` bigint(20) NOT NULL DEFAULT 102400,
  `backupmx` tinyint(1) NOT NULL DEFAULT 0,
  `active` tinyint(1) NOT NULL DEFAULT 1,
  PRIMARY KEY (`domain`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
LOCK TABLES `domain` WRITE;
INSERT INTO `domain` VALUES ('acme.test','it\'s; (ours), \\ \"x\"',1,0,1),('relay.test',NULL,1,1,1);
UNLOCK TABLES;
CREATE TABLE `mailbox` (
  `username` varchar(255) NOT NULL,
  `password` varchar(255) NOT NULL,
  `name` varchar(255) DEFAULT NULL,
  `quota` bigint(20) NOT NULL DEFAULT 102400,
  `local_part` varchar(255) NOT NULL,
  `domain` varchar(255) NOT NULL,
  `attributes` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`attributes`)),
  `kind` varchar(100) NOT NULL DEFAULT '',
  `active` tinyint(1) NOT NULL DEFAULT 1,
  PRIMARY KEY (`username`),
  KEY `domain` (`domain`)
);
INSERT INTO `mailbox` VALUES
('alice@acme.test','{{BLF-CRYPT}}{BCRYPT}','Alice Ä','3221225472'
,'alice','acme.test','{{\"force_pw_update\":\"0\"}}','',1),
('bob@acme.test','{{SSHA256}}abc','Bob O''Neil',0,'bob','acme.test',NULL,'',0),
('room@acme.test','x','Room',0,'room','acme.test','{{}}','location',1);
CREATE TABLE `alias` (`id` int(11) NOT NULL, `address` varchar(255) NOT NULL, `goto` text NOT NULL, `active` tinyint(1));
INSERT INTO `alias` VALUES (1,'alice@acme.test','alice@acme.test',1),(2,'sales@acme.test','alice@acme.test,bob@acme.test',1),
(3,'@acme.test','alice@acme.test',1),(4,'spam@acme.test','null@localhost',1),(5,'old@acme.test','bob@acme.test',0);
CREATE TABLE `alias_domain` (`alias_domain` varchar(255), `target_domain` varchar(255), `active` tinyint(1));
INSERT INTO `alias_domain` VALUES ('acme.example','acme.test',1);
CREATE TABLE `sender_acl` (`id` int, `logged_in_as` varchar(255), `send_as` varchar(255), `external` tinyint(1));
INSERT INTO `sender_acl` VALUES (1,'alice@acme.test','sales@acme.test',0),(2,'alice@acme.test','*',0);
CREATE TABLE `sieve_filters` (`id` int, `username` varchar(255), `script_desc` varchar(255), `script_name` enum('active','inactive'), `script_data` text, `filter_type` enum('postfilter','prefilter'));
INSERT INTO `sieve_filters` VALUES (1,'alice@acme.test','mine','active','require "fileinto";\nkeep;\n','prefilter');
"""  # fmt: skip


def by_name(domains: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {domain["name"]: domain for domain in domains}


def test_mailcow() -> None:
    accounts = mailcow(MAILCOW)
    domains, warnings = inventory(accounts)
    found = by_name(domains)
    assert set(found) == {"acme.test", "acme.example"}
    assert found["acme.test"] == {
        "name": "acme.test",
        "mailboxes": [
            {
                "name": "alice",
                "display_name": "Alice Ä",
                "password_hash": "{BLF-CRYPT}" + BCRYPT,
                "quota": 3 * 2**30,
                "send_as": ["sales@acme.test"],
            },
            {
                "name": "bob",
                "display_name": "Bob O'Neil",
                "password": "{{ vault_imported['bob@acme.test'] }}",
                "quota": 0,
                "enabled": False,
            },
        ],
        "aliases": [{"name": "sales", "to": ["alice@acme.test", "bob@acme.test"]}],
        "catch_all": ["alice@acme.test"],
    }
    assert {"name": "sales", "to": ["sales@acme.test"]} in found["acme.example"]["aliases"]
    assert found["acme.example"]["catch_all"] == ["alice@acme.test"]
    assert accounts.sieve == {"alice@acme.test": {"prefilter-mine": 'require "fileinto";\nkeep;\n'}}
    assert [warning.partition(":")[0] for warning in warnings] == [
        "relay.test",
        "room@acme.test",
        "spam@acme.test",
        "alice@acme.test",
        "bob@acme.test",
    ]
    assert "scheme SSHA256" in warnings[-1]
    domains[0]["mailboxes"] = domains[0].get("mailboxes", [])
    found["acme.test"]["mailboxes"][1]["password"] = "a new one"
    assert checked(domains) == []


def test_mail_in_a_box(tmp_path: Path) -> None:
    path = tmp_path / "users.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, email TEXT NOT NULL UNIQUE, password TEXT NOT NULL, extra, privileges TEXT NOT NULL DEFAULT '', quota TEXT NOT NULL DEFAULT '0');"
        "CREATE TABLE aliases (id INTEGER PRIMARY KEY AUTOINCREMENT, source TEXT NOT NULL UNIQUE, destination TEXT NOT "
        "NULL, permitted_senders TEXT);"
        "CREATE TABLE auto_aliases (id INTEGER PRIMARY KEY AUTOINCREMENT, source TEXT NOT NULL UNIQUE, destination TEXT);"
    )
    insert = "INSERT INTO users (email, password, privileges, quota) VALUES (?, ?, ?, ?)"
    connection.execute(insert, ("Me@box.test", "{SHA512-CRYPT}" + SHA512, "admin", "5G"))
    connection.execute(insert, ("you@box.test", "{SHA512-CRYPT}" + SHA512, "", "0"))
    insert = "INSERT INTO aliases (source, destination, permitted_senders) VALUES (?, ?, ?)"
    connection.execute(insert, ("all@box.test", "me@box.test,\nyou@box.test", "you@box.test"))
    connection.execute(insert, ("@box.test", "me@box.test", None))
    connection.execute("INSERT INTO auto_aliases (source, destination) VALUES ('hostmaster@box.test', 'me@box.test')")
    connection.commit()
    connection.close()
    domains, warnings = inventory(mailinabox(read(str(path))))
    assert warnings == []
    (box,) = domains
    assert box["mailboxes"] == [
        {"name": "me", "password_hash": "{SHA512-CRYPT}" + SHA512, "quota": 5 * 2**30},
        {"name": "you", "password_hash": "{SHA512-CRYPT}" + SHA512, "quota": 0, "send_as": ["all@box.test"]},
    ]
    assert box["aliases"] == [
        {"name": "all", "to": ["me@box.test", "you@box.test"]},
        {"name": "hostmaster", "to": ["me@box.test"]},
    ]
    assert box["catch_all"] == ["me@box.test"]
    assert checked(domains) == []


IREDMAIL_MYSQL = f"""
CREATE TABLE `domain` (
  `domain` varchar(255) NOT NULL DEFAULT '',
  `description` text,
  `backupmx` tinyint(1) NOT NULL DEFAULT 0,
  `active` tinyint(1) NOT NULL DEFAULT 1,
  PRIMARY KEY (`domain`),
  KEY `active` (`active`)
);
INSERT INTO `domain` VALUES ('red.test',NULL,0,1),('off.test','x',0,0);
CREATE TABLE `mailbox` (
  `username` varchar(255) NOT NULL DEFAULT '',
  `password` varchar(255) NOT NULL DEFAULT '',
  `name` varchar(255) NOT NULL DEFAULT '',
  `quota` bigint(20) NOT NULL DEFAULT 0,
  `enablelib-storage` tinyint(1) NOT NULL DEFAULT 1,
  `active` tinyint(1) NOT NULL DEFAULT 1,
  PRIMARY KEY (`username`)
);
INSERT INTO `mailbox` VALUES ('ann@red.test','{{SSHA512}}xyz','Ann',1024,1,1),('ben@red.test','{{BLF-CRYPT}}{BCRYPT}','',0,1,1);
"""
IREDMAIL_FORWARDINGS = """
CREATE TABLE `forwardings` (`id` bigint, `address` varchar(255), `forwarding` varchar(255), `is_maillist` tinyint(1), `is_list` tinyint(1), `is_forwarding` tinyint(1), `is_alias` tinyint(1), `active` tinyint(1));
INSERT INTO `forwardings` VALUES (1,'ann@red.test','ann@red.test',0,0,1,0,1),(2,'team@red.test','ann@red.test',0,1,0,0,1),(3,'team@red.test','x@else.test',0,1,0,0,1),(4,'b@red.test','ben@red.test',0,0,0,1,1),(5,'ben@red.test','ben@home.test',0,0,1,0,1),(6,'red.test','ann@red.test',0,0,0,0,1),(7,'news@red.test','news@red.test',1,0,0,0,1);
"""
IREDMAIL_PG = (
    "CREATE TABLE public.domain (domain character varying(255) NOT NULL);\n"
    "COPY public.domain (domain, description, backupmx, active) FROM stdin;\nred.test\t\\N\t0\t1\noff.test\tx\t0\t0\n\\.\n\n"
    "COPY public.mailbox (username, password, name, quota, active) FROM stdin;\n"
    f"ann@red.test\t{{SSHA512}}xyz\tAnn\t1024\t1\nben@red.test\t{{BLF-CRYPT}}{BCRYPT}\t\t0\t1\n\\.\n"
    "COPY public.forwardings (id, address, forwarding, is_maillist, active) FROM stdin;\n"
    "2\tteam@red.test\tann@red.test\t0\t1\n3\tteam@red.test\tx@else.test\t0\t1\n4\tb@red.test\tben@red.test\t0\t1\n"
    "5\tben@red.test\tben@home.test\t0\t1\n6\tred.test\tann@red.test\t0\t1\n7\tnews@red.test\tnews@red.test\t1\t1\n\\.\n"
)


@pytest.mark.parametrize("dump", [IREDMAIL_MYSQL + IREDMAIL_FORWARDINGS, IREDMAIL_PG], ids=["mysql", "postgresql"])
def test_iredmail(dump: str) -> None:
    domains, warnings = inventory(iredmail(dump))
    found = by_name(domains)
    assert found["off.test"] == {"name": "off.test", "enabled": False}
    red = found["red.test"]
    assert [box["quota"] for box in red["mailboxes"]] == [2**30, 0]
    assert red["mailboxes"][1]["password_hash"] == "{BLF-CRYPT}" + BCRYPT
    assert red["aliases"] == [
        {"name": "b", "to": ["ben@red.test"]},
        {"name": "team", "to": ["ann@red.test", "x@else.test"]},
    ]
    assert red["catch_all"] == ["ann@red.test"]
    assert [warning.partition(": ")[::2] for warning in warnings] == [
        ("news@red.test", "is a mailing list of mlmmj, and is left out"),
        ("ann@red.test", "the password's hash (scheme SSHA512) cannot be taken over: put a new password into vault_imported"),
        ("ben@red.test", "passes mail on to ben@home.test: make a filter of it (redirect)"),
    ]  # fmt: skip


def test_stalwart() -> None:
    principals = [
        {"type": "domain", "name": "stal.test"},
        {
            "type": "individual",
            "name": "jo",
            "description": "Jo Doe",
            "secrets": ["$app$x$abc", ARGON2, "otpauth://totp/x"],
            "emails": ["jo@stal.test", "doe@stal.test"],
            "quota": 1073741824,
        },
        {"type": "individual", "name": "kim", "secrets": SHA512, "emails": "kim@stal.test"},
        {"type": "individual", "name": "admin", "secrets": [SHA512]},
        {"type": "list", "name": "team", "emails": ["team@stal.test"], "members": ["jo", "kim"], "externalMembers": ["x@else.test"]},
    ]  # fmt: skip
    domains, warnings = inventory(stalwart(json.dumps({"data": {"items": principals, "total": 5}})))
    (domain,) = domains
    assert domain["mailboxes"] == [
        {"name": "jo", "display_name": "Jo Doe", "password_hash": "{ARGON2ID}" + ARGON2, "quota": 2**30},
        {"name": "kim", "password_hash": "{SHA512-CRYPT}" + SHA512, "quota": 0},
    ]
    assert domain["aliases"] == [
        {"name": "doe", "to": ["jo@stal.test"]},
        {"name": "team", "to": ["jo@stal.test", "kim@stal.test", "x@else.test"]},
    ]
    assert [warning.partition(" ")[0] for warning in warnings] == ["jo@stal.test:", "admin:"]
    assert checked(domains) == []


@pytest.mark.parametrize(
    ("convert", "text", "message"),
    [
        (mailcow, "", "has no rows of mailbox and domain: is it a dump of the whole database?"),
        (mailcow, "INSERT INTO `mailbox` VALUES (1);", "without its columns: leave CREATE TABLE in"),
        (mailcow, "CREATE TABLE `mailbox` (`a` int, `b` int);\nINSERT INTO `mailbox` VALUES (1);", "1 values for 2 columns"),
        (mailcow, "CREATE TABLE `mailbox` (`a` int);\nINSERT INTO `mailbox` VALUES ('abc", "the dump is cut off"),
        (stalwart, "<html>", "is not JSON"),
        (stalwart, '{"error": "x"}', "is not a list of principals"),
    ],
)  # fmt: skip
def test_bad_dumps(convert: Any, text: str, message: str) -> None:
    with pytest.raises(DumpError) as caught:
        convert(text)
    assert message in str(caught.value)


def test_strings_of_both_dialects() -> None:
    text = "CREATE TABLE t (a text, b text);\nINSERT INTO u VALUES(1);\nINSERT INTO t VALUES('it''s \\n',NULL),('(,);',-1.5);"
    assert tables(text, ("t",), backslashes=False)["t"] == [{"a": "it's \\n", "b": None}, {"a": "(,);", "b": "-1.5"}]
    assert tables(text, ("t",), backslashes=True)["t"][0]["a"] == "it's \n"
