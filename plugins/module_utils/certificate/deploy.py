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
# Beside the pairs: the TLSA records that are known everywhere, and the mark of a reload that is still to be done.
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
    now: datetime,
) -> Pair:
    """Check a chain and its key that are to replace `live`. Raises ValueError with all that speaks against it."""
    try:
        return check_given(chain_pem, key_pem, needed_names(names, live), now)
    except ValueError as error:
        raise ValueError(re.sub(r"\b(certificate|key)_pem: ", "", str(error))) from None


def admits(published: frozenset[str] | None, pair: Pair) -> bool:
    """Whether a pair may be served: with another key than the published ones no server that checks DANE sends mail.
    `published` holds TLSA digests; None: there are no records."""
    return published is None or pair.spki in published


def read_pair(lineage: str) -> tuple[bytes, bytes]:
    """Read certbot's chain and key. Raises OSError."""
    with (
        open(os.path.join(lineage, "fullchain.pem"), "rb") as chain,
        open(os.path.join(lineage, "privkey.pem"), "rb") as key,
    ):
        return chain.read(), key.read()


def live_pair(store: CertificateStore) -> Pair | None:
    """Read the live pair; a broken one counts as none, since anything is better."""
    return _parsed(store.read())


def next_pair(store: CertificateStore) -> Pair | None:
    """Read the pair that waits for its TLSA record, likewise."""
    return _parsed(store.read_next())


def published_digests(store: CertificateStore) -> frozenset[str] | None:
    """Read the digests that may be served since their TLSA records are known; None: there are none at all.

    Raises ValueError, OSError.
    """
    file = os.path.join(store.directory, TLSA)
    try:
        with open(file, encoding="utf-8") as stream:
            return parse_tlsa(stream.read())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def pending(settings: Settings, lineage: str) -> bool:
    """Whether certbot has another certificate than the live one, or the services have not loaded it. One that waits
    for its TLSA record is where it belongs. Raises OSError, ValueError."""
    store = CertificateStore(settings.path, settings.hostname)
    candidate, live, waiting = _parsed(read_pair(lineage)), live_pair(store), next_pair(store)
    if candidate is None or live is None or unloaded(store):
        return True
    waits = waiting is not None and candidate.fingerprint == waiting.fingerprint
    if waits and not admits(published_digests(store), candidate):
        return False
    return candidate.fingerprint != live.fingerprint


def unloaded(store: CertificateStore) -> bool:
    """Whether a pair was made live and the services have not loaded it."""
    return os.path.exists(os.path.join(store.directory, UNLOADED))


def _parsed(content: tuple[bytes, bytes] | None) -> Pair | None:
    try:
        return None if content is None else parse_pair(*content)
    except ValueError:
        return None


def install(store: CertificateStore, pair: Pair, reload: Sequence[str] = RELOAD) -> None:
    """Make a pair live, unless it is, and have the services load it.

    Raises OSError, and subprocess.CalledProcessError when a service does not reload.
    """
    live = live_pair(store)
    # A run that is killed before the services have reloaded leaves the mark: the next one reloads.
    mark = os.path.join(store.directory, UNLOADED)
    with open(mark, "wb"):
        pass
    if live is None or live.fingerprint != pair.fingerprint:
        store.write(pair.chain_pem, pair.key_pem)
    subprocess.run(reload, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(mark)


def deploy(settings: Settings, lineage: str, reload: Sequence[str] = RELOAD) -> str:
    """Make certbot's pair in the directory `lineage` live and have the services load it; gives what was done.

    A pair whose key has no TLSA record, where there are some, is kept beside the live one: a planned change of the key
    publishes its record and makes it live then. Raises ValueError when the pair is refused, OSError, and
    subprocess.CalledProcessError when a service does not reload.
    """
    store = CertificateStore(settings.path, settings.hostname)
    with store.locked():
        live, waiting = live_pair(store), next_pair(store)
        wanted = accept(*read_pair(lineage), settings.names, live, datetime.now(UTC))
        if live is not None and live.fingerprint == wanted.fingerprint and not unloaded(store):
            return "nothing to do"
        if not admits(published_digests(store), wanted):
            if waiting is None or waiting.fingerprint != wanted.fingerprint:
                store.stage(wanted.chain_pem, wanted.key_pem)
            return (
                f"a new certificate WAITS, the one before it stays in use: its key has no TLSA record yet, 3 1 1 "
                f"{wanted.spki}; publish the records"
            )
        install(store, wanted, reload)
        if waiting is not None and waiting.spki == wanted.spki:
            store.discard_next()
    return "a new certificate is in use"


def hook(settings_file: str = SETTINGS, reload: Sequence[str] = RELOAD) -> tuple[int, str]:
    """Do what certbot's deploy hook does (it names the directory in RENEWED_LINEAGE); exit code and what to say."""
    kept = "the certificate before it stays in use"
    try:
        settings = Settings.load(settings_file)
        lineage = os.environ.get("RENEWED_LINEAGE") or os.path.join(LINEAGES, settings.hostname)
        if os.path.basename(lineage) != settings.hostname:
            return 0, f"{lineage} is not the mail server's certificate: left alone"
        done = deploy(settings, lineage, reload)
    except ValueError as error:
        return 1, f"REFUSED a new certificate, {kept}: {error}"
    except subprocess.CalledProcessError as error:
        return 1, f"the new certificate is in place, but not every service has loaded it: {error.stderr.strip()}"
    except (OSError, KeyError) as error:
        return 1, f"cannot install a new certificate, {kept}: {error}"
    return 0, f"{settings.hostname}: {done}"
