# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mail_backup: what is taken, what is refused, and that no secret is in an error."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.model.build import build_model
from ansible_collections.mailwright.server.plugins.module_utils.model.errors import ModelError
from ansible_collections.mailwright.server.plugins.module_utils.model.repository import parse_repository

PASSWORD = "correct horse battery"
HOST_KEY = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(32)).decode()
PRIVATE_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\nBBBB=\n-----END OPENSSH PRIVATE KEY-----\n"
SFTP = {"private_key": PRIVATE_KEY, "host_key": HOST_KEY}
S3 = {"access_key": "AKID", "secret_key": "sesame"}


def build(**backup: Any) -> dict[str, Any] | None:
    variables = {
        "mail_hostname": "mx1.acme.test",
        "mail_admin": "a@acme.test",
        "mail_domains": [{"name": "acme.test", "mailboxes": [{"name": "a", "password": "x"}]}],
        "mail_backup": {"repository": "/srv/backup", "password": PASSWORD, **backup},
    }
    found = build_model(variables).model["backup"]
    return None if found is None else dict(found)


def test_defaults() -> None:
    assert build() == {
        "repository": "/srv/backup",
        "password": PASSWORD,
        "schedule": "02:30",
        "keep": {"daily": 7, "weekly": 5, "monthly": 12},
        "check_schedule": "Sun 05:00",
        "check_percent": 5,
        "alert_after_hours": 36,
        "ca_file": None,
        "sftp": None,
        "credentials": {},
    }


def test_each_kind_of_repository() -> None:
    sftp = build(repository="sftp://me@store.test:2222/srv/x", sftp={**SFTP, "host_key": HOST_KEY + " a comment"})
    assert sftp and sftp["repository"] == "sftp://me@store.test:2222//srv/x"
    assert sftp["sftp"] == {"private_key": PRIVATE_KEY.rstrip(), "host_key": HOST_KEY}
    s3 = build(repository="s3:https://s3.test/bucket/mx1", s3={**S3, "region": "eu-1"})
    assert s3 and s3["credentials"] == {
        "AWS_ACCESS_KEY_ID": "AKID",
        "AWS_SECRET_ACCESS_KEY": "sesame",
        "AWS_DEFAULT_REGION": "eu-1",
    }
    rest = build(repository="rest:https://store.test:8000/", rest={"user": "mx1", "password": "sesame"}, ca_file="ca")
    assert rest and rest["credentials"] == {"RESTIC_REST_USERNAME": "mx1", "RESTIC_REST_PASSWORD": "sesame"}
    assert rest["ca_file"] == "ca"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repository": "backup"}, "mail_backup.repository: 'backup' is not a repository: write /a/directory,"),
        ({"repository": "/srv"}, "mail_backup.repository: '/srv' is no place for backups"),
        ({"repository": "/var/vmail/b"}, "mail_backup.repository: '/var/vmail/b' is no place"),
        ({"repository": "/srv/../etc/x"}, "mail_backup.repository: '/srv/../etc/x' is no place"),
        ({"repository": "/srv/a b"}, "mail_backup.repository: '/srv/a b' is not a directory for backups"),
        ({"repository": "sftp://store.test/x"}, "mail_backup.repository: 'sftp://store.test/x' is not an SFTP"),
        ({"repository": "s3:http://s3.test/b"}, "mail_backup.repository: 's3:http://s3.test/b' is not a repository"),
        ({"repository": "rest:https://u:s3cret@x.test/"}, "mail_backup.repository: has a user in its URL"),
        ({"repository": "sftp://me@store.test/x"}, "mail_backup.sftp: is missing: it says how to log in"),
        ({"s3": S3}, "mail_backup.s3: is not used with a repository of the kind directory: remove it"),
        ({"ca_file": "x"}, "mail_backup.ca_file: is not used with this repository"),
        ({"password": "short"}, "mail_backup.password: has 5 characters: write 16 to 512"),
        ({"password": None}, "mail_backup.password: is missing"),
        ({"schedule": "02:30\nExecStart=x"}, "mail_backup.schedule: '02:30\\nExecStart=x' is not a calendar event"),
        ({"keep": {"daily": -1}}, "mail_backup.keep.daily: -1 is not a whole number from 0 to 1000"),
        ({"keep": {"hourly": 1}}, "mail_backup.keep.hourly: is not a key that is known here"),
        ({"check": {"percent": "5%"}}, "mail_backup.check.percent: '5%' is not a whole number from 0 to 100"),
        ({"alert_after_hours": 0}, "mail_backup.alert_after_hours: 0 is not a whole number from 1"),
    ],
)
def test_mistakes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        build(**change)
    assert caught.value.errors[0].startswith(message)


def test_mistakes_in_the_log_in() -> None:
    with pytest.raises(ModelError) as caught:
        build(repository="sftp://me@store.test/x", sftp={"private_key": "sesame", "host_key": "ssh-ed25519 AAAA"})
    assert [error.partition(":")[0] for error in caught.value.errors] == [
        "mail_backup.sftp.private_key",
        "mail_backup.sftp.host_key",
    ]
    assert "sesame" not in str(caught.value)
    with pytest.raises(ModelError) as caught:
        build(repository="s3:https://s3.test/b", s3={**S3, "secret_key": "ses ame"})
    assert "ses ame" not in str(caught.value)


def test_a_url_does_not_smuggle() -> None:
    urls = ("rest:https://x.test/?a", "rest:https://x.test:0/", "s3:https://x.test/", "sftp://-x@h/y", "rest:file:///x")
    for text in urls:
        with pytest.raises(ValueError, match="repository"):
            parse_repository(text)
