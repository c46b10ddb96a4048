# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install a certificate that certbot got, if it may replace the live one. Runs on the host, as certbot's deploy hook.

A role copies this file, and the ones that it imports, to the host: renewal does not need the controller.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ansible_collections.mailwright.server.plugins.module_utils.certificate.pair import (
    Pair,
    check_given,
    covers,
    parse_pair,
)
from ansible_collections.mailwright.server.plugins.module_utils.certificate.store import CertificateStore

SETTINGS = "/etc/mailwright/acme/settings.json"
LINEAGES = "/etc/letsencrypt/live"
RELOAD = ("systemctl", "try-reload-or-restart", "postfix.service", "dovecot.service", "nginx.service")
# Beside the pairs: the TLSA records that are published, and the mark of a reload that is still to be done.
TLSA, UNLOADED = "tlsa", ".unloaded"
_TLSA_LINE = re.compile(r"3\s+1\s+1\s+([0-9a-fA-F]{64})")


@dataclass(frozen=True)
class Settings:
    """What the certificate is for: `names` with the host's first; `path` holds one directory for each host name."""

    hostname: str
    names: tuple[str, ...]
    path: str

    @classmethod
    def load(cls, file: str = SETTINGS) -> Settings:
        """Read the settings that the role wrote. Raises OSError, ValueError, KeyError."""
        with open(file, encoding="utf-8") as stream:
            found = json.load(stream)
        return cls(found["hostname"], tuple(found["names"]), found["path"])


def parse_tlsa(text: str) -> frozenset[str]:
    """Read the published TLSA records, lines `3 1 1 <SHA-256 in hexadecimal>`; # begins a comment. Raises ValueError.

    `3 1 1` is what RFC 7672 section 3.1.1 asks of a mail server's own certificate.
    """
    found = set()
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        match = _TLSA_LINE.fullmatch(content)
        if match is None:
            raise ValueError(f"line {number} is not '3 1 1' and 64 hexadecimal digits")
        found.add(match[1].lower())
    return frozenset(found)


def needed_names(names: Sequence[str], live: Pair | None) -> list[str]:
    """Which of the wanted names a certificate must cover: the host's, and those that the live one covers.

    A name that was added but not issued yet must not hold up the renewal of the others.
    """
    held = live.names if live is not None else ()
    return [name for name in names if name == names[0] or any(covers(pattern, name) for pattern in held)]


def accept(
    chain_pem: bytes,
    key_pem: bytes,
    names: Sequence[str],
    live: Pair | None,
    published: frozenset[str] | None,
    now: datetime,
) -> Pair:
    """Check a chain and its key that are to replace `live`; `published` holds TLSA digests (None: DANE is off).

    Raises ValueError with all that speaks against it.
    """
    try:
        pair = check_given(chain_pem, key_pem, needed_names(names, live), now)
    except ValueError as error:
        raise ValueError(re.sub(r"\b(certificate|key)_pem: ", "", str(error))) from None
    if published is not None and pair.spki not in published:
        raise ValueError(
            f"its key is not published: TLSA 3 1 1 {pair.spki} is not among the {len(published)} published ones, "
            "and servers that check DANE would send no mail"
        )
    return pair


def read_pair(lineage: str) -> tuple[bytes, bytes]:
    """Read certbot's chain and key. Raises OSError."""
    with (
        open(os.path.join(lineage, "fullchain.pem"), "rb") as chain,
        open(os.path.join(lineage, "privkey.pem"), "rb") as key,
    ):
        return chain.read(), key.read()


def live_pair(store: CertificateStore) -> Pair | None:
    """Read the live pair; a broken one counts as none, since anything is better."""
    content = store.read()
    try:
        return None if content is None else parse_pair(*content)
    except ValueError:
        return None


def published_digests(store: CertificateStore) -> frozenset[str] | None:
    """Read the digests of the published TLSA records; None when DANE is off. Raises ValueError, OSError."""
    file = os.path.join(store.directory, TLSA)
    try:
        with open(file, encoding="utf-8") as stream:
            return parse_tlsa(stream.read())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def pending(settings: Settings, lineage: str) -> bool:
    """Whether certbot has another certificate than the live one, or the services have not loaded it. Raises OSError."""
    store = CertificateStore(settings.path, settings.hostname)
    unloaded = os.path.exists(os.path.join(store.directory, UNLOADED))
    candidate, live = _parsed(read_pair(lineage)), live_pair(store)
    return unloaded or candidate is None or live is None or candidate.fingerprint != live.fingerprint


def _parsed(content: tuple[bytes, bytes]) -> Pair | None:
    try:
        return parse_pair(*content)
    except ValueError:
        return None


def deploy(settings: Settings, lineage: str, reload: Sequence[str] = RELOAD) -> bool:
    """Make certbot's pair in the directory `lineage` live and have the services load it; False when it was already.

    Raises ValueError when it is refused, OSError, and subprocess.CalledProcessError when a service does not reload.
    """
    store = CertificateStore(settings.path, settings.hostname)
    live = live_pair(store)
    now = datetime.now(UTC)
    wanted = accept(*read_pair(lineage), settings.names, live, published_digests(store), now)
    mark = os.path.join(store.directory, UNLOADED)
    if live is not None and live.fingerprint == wanted.fingerprint and not os.path.exists(mark):
        return False
    # A run that is killed before the services have reloaded leaves the mark: the next one reloads.
    os.makedirs(store.directory, mode=0o750, exist_ok=True)
    with open(mark, "wb"):
        pass
    if live is None or live.fingerprint != wanted.fingerprint:
        store.write(wanted.chain_pem, wanted.key_pem)
    subprocess.run(reload, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(mark)
    return True


def hook(settings_file: str = SETTINGS, reload: Sequence[str] = RELOAD) -> tuple[int, str]:
    """Do what certbot's deploy hook does (it names the directory in RENEWED_LINEAGE); exit code and what to say."""
    kept = "the certificate before it stays in use"
    try:
        settings = Settings.load(settings_file)
        lineage = os.environ.get("RENEWED_LINEAGE") or os.path.join(LINEAGES, settings.hostname)
        if os.path.basename(lineage) != settings.hostname:
            return 0, f"{lineage} is not the mail server's certificate: left alone"
        changed = deploy(settings, lineage, reload)
    except ValueError as error:
        return 1, f"REFUSED a new certificate, {kept}: {error}"
    except subprocess.CalledProcessError as error:
        return 1, f"the new certificate is in place, but not every service has loaded it: {error.stderr.strip()}"
    except (OSError, KeyError) as error:
        return 1, f"cannot install a new certificate, {kept}: {error}"
    return 0, f"{settings.hostname}: " + ("a new certificate is in use" if changed else "nothing to do")
