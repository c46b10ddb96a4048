# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The syntax of the backup's values: where a repository is, how to log in there, when and how many.

As in ``values``: the normalised value, or ``ValueError`` with what would be right, and never a secret in it.
"""

from __future__ import annotations

import base64
import posixpath
import re
import urllib.parse
from typing import Literal, NamedTuple

from .errors import kind, shown
from .values import has_control

SHORTEST_PASSWORD = 16
LONGEST_CREDENTIAL = 512
Kind = Literal["directory", "sftp", "s3", "rest"]

_FORMS = "write /a/directory, sftp://user@host:port/directory, s3:https://host/bucket or rest:https://host:port/path/"
# restic would fill the store that it backs up, or the unit may not write there
_OWN = (
    *("/var/vmail", "/var/lib/mailwright", "/etc", "/usr", "/proc", "/sys", "/dev", "/run", "/home", "/root"),
    *("/tmp", "/var/tmp"),  # noqa: S108  # nothing is written there: it is refused
)
_PATH = re.compile(r"(?:/[A-Za-z0-9._@+-]+)+")
_USER = re.compile(r"[a-z_][a-z0-9_.-]{0,31}", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]")
_HOST_KEY = re.compile(r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)) ([A-Za-z0-9+/]{60,}={0,2})(?: .*)?")
_PRIVATE_KEY = re.compile(
    r"-----BEGIN ((?:OPENSSH |RSA |EC )?PRIVATE KEY)-----\n[A-Za-z0-9+/=\n]+\n-----END \1-----\n?"
)
_CALENDAR = re.compile(r"[A-Za-z0-9 ,.:*/~_-]{1,100}")


class Repository(NamedTuple):
    """What is at the place, and the place as restic names it."""

    kind: Kind
    location: str


def parse_repository(text: str) -> Repository:
    """A place for backups. User names and passwords of services do not belong into it."""
    if text.startswith("/"):
        return Repository("directory", _directory(text))
    scheme, colon, rest = text.partition(":")
    wrong = ValueError(f"{shown(text)} is not a repository: {_FORMS}")
    try:
        parts = urllib.parse.urlsplit(text if scheme == "sftp" else rest)
        port = parts.port
    except ValueError:
        raise wrong from None
    if not colon or port == 0 or parts.query or parts.fragment or not _HOST.fullmatch(_host(parts)):
        raise wrong
    if scheme == "sftp" and parts.scheme == "sftp":
        if parts.password is not None or not _USER.fullmatch(parts.username or "") or not _PATH.fullmatch(parts.path):
            raise ValueError(f"{shown(text)} is not an SFTP repository: write sftp://user@host:port/directory")
        # to restic, a second slash makes the directory an absolute one
        return Repository("sftp", f"sftp://{parts.netloc}/{parts.path}")
    if scheme in ("s3", "rest") and parts.scheme == "https":
        if parts.username is not None or parts.password is not None:
            raise ValueError(f"has a user in its URL: write that as mail_backup.{scheme} (the value is not shown)")
        path = parts.path.rstrip("/")
        if (path or scheme == "s3") and not _PATH.fullmatch(path):
            raise wrong
        return Repository("s3" if scheme == "s3" else "rest", f"{scheme}:https://{parts.netloc}{path}/")
    raise wrong


def _host(parts: urllib.parse.SplitResult) -> str:
    host = parts.hostname or ""
    return f"[{host}]" if ":" in host else host


def _directory(text: str) -> str:
    path = posixpath.normpath(text)
    if not _PATH.fullmatch(path) or text.startswith("//"):
        raise ValueError(f"{shown(text)} is not a directory for backups: {_FORMS}")
    if path.count("/") < 2 or any(path == own or path.startswith(f"{own}/") for own in _OWN):
        raise ValueError(f"{shown(text)} is no place for backups: write a directory such as /srv/backup/mail")
    return path


def parse_repository_password(text: str) -> str:
    """What encrypts a repository."""
    if has_control(text) or text != text.strip():
        raise ValueError("has a line break or a space at an end: write one line (the value is not shown)")
    if not SHORTEST_PASSWORD <= len(text) <= LONGEST_CREDENTIAL:
        raise ValueError(
            f"has {len(text)} characters: write {SHORTEST_PASSWORD} to {LONGEST_CREDENTIAL}, such as what "
            "`openssl rand -base64 24` prints"
        )
    return text


def parse_credential(text: str) -> str:
    """One word that a service gave out."""
    if not text or not text.isascii() or not text.isprintable() or " " in text or len(text) > LONGEST_CREDENTIAL:
        raise ValueError("is not one word: copy it whole, without spaces and line breaks (the value is not shown)")
    return text


def parse_private_key(text: str) -> str:
    """An SSH key without a passphrase, as ssh-keygen writes it."""
    text = text.replace("\r\n", "\n").strip() + "\n"
    if not _PRIVATE_KEY.fullmatch(text):
        raise ValueError("is not a private SSH key: give the whole file that ssh-keygen wrote (the value is not shown)")
    return text.rstrip("\n")


def parse_host_key(text: str) -> str:
    """A server's public key: its type and its base64, as in a known_hosts file after the names."""
    found = _HOST_KEY.fullmatch(text.strip())
    good = False
    if found:
        try:
            raw = base64.b64decode(found[2], validate=True)
            good = raw[4 : 4 + int.from_bytes(raw[:4], "big")] == found[1].encode()
        except ValueError:
            good = False
    if not found or not good:
        raise ValueError(
            f"{shown(text)} is not a host key: write one such as ssh-ed25519 AAAA..., as `ssh-keyscan HOST` prints it "
            "after the name"
        )
    return f"{found[1]} {found[2]}"


def parse_calendar(text: str) -> str:
    """A calendar event (systemd.time(7)), by its characters; the host's systemd judges the rest before a change."""
    if not _CALENDAR.fullmatch(text) or not re.search(r"[0-9a-z]", text):
        raise ValueError(f"{shown(text)} is not a calendar event of systemd: write 02:30, Sun 05:00 or daily, say")
    return text


def parse_count(least: int, most: int, value: object) -> int:
    """A whole number within limits."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        what = shown(value) if isinstance(value, (int, float, str)) else kind(value)
        raise ValueError(f"{what} is not a whole number from {least} to {most}")
    return value
