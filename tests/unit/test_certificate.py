# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates: the module on real files, checked with openssl; given chains made by a small authority of the test."""

from __future__ import annotations

import itertools
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.mailwright.server.plugins.module_utils.certificate.pair import (
    check_given,
    covers,
    parse_pair,
    self_sign,
    still_good,
)
from ansible_collections.mailwright.server.plugins.module_utils.certificate.store import CertificateStore
from ansible_collections.mailwright.server.plugins.modules import certificate as certificate_module
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

HOST = "mx1.acme.test"
NOW = datetime.now(UTC).replace(microsecond=0)


@dataclass
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


def issue(
    name: str, issuer: Issued | None, *, names: tuple[str, ...] = (), start: datetime = NOW, days: int = 90
) -> Issued:
    """Issue a certificate; an authority when it has no names."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - timedelta(minutes=5))
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
        )
    return Issued(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


ROOT = issue("Root", None)
MIDDLE = issue("Middle", ROOT)
LEAF = issue(HOST, MIDDLE, names=(HOST, "*.mail.test"))


@pytest.fixture
def apply(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the module on a directory of its own; gives the result. Asserts that no key is printed."""

    def run(check: bool = False, **more: Any) -> dict[str, Any]:
        arguments = {"hostname": HOST, "path": str(tmp_path / "tls")} | more
        with (
            patch_module_args(arguments | {"_ansible_check_mode": check, "_ansible_diff": True}),
            pytest.raises(SystemExit),
        ):
            certificate_module.main()
        printed = capsys.readouterr().out
        assert "PRIVATE" not in printed
        result: dict[str, Any] = json.loads(printed)
        return result

    return run


def given(*chain: Issued, key: Issued | None = None) -> dict[str, str]:
    return {
        "mode": "files",
        "certificate_pem": "".join(issued.pem for issued in chain),
        "key_pem": (key or chain[0]).key_pem,
    }


def files(result: dict[str, Any]) -> tuple[bytes, bytes]:
    live = Path(result["path"])
    return (live / "fullchain.pem").read_bytes(), (live / "privkey.pem").read_bytes()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_a_self_signed_certificate_is_made_once_and_verifies(apply: Any, tmp_path: Path) -> None:
    planned = apply(check=True, names=["mail.acme.test"])
    assert planned["changed"] and planned["fingerprint"] is None and not (tmp_path / "tls").exists()
    done = apply(names=["mail.acme.test"])
    assert done["names"] == [HOST, "mail.acme.test"]
    chain = os.path.join(done["path"], "fullchain.pem")
    for name in (HOST, "mail.acme.test"):
        subprocess.run(
            ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", name,
             "-CAfile", chain, chain], check=True, capture_output=True,
        )  # fmt: skip
    shown = subprocess.run(
        ["openssl", "x509", "-in", chain, "-noout", "-fingerprint", "-sha256"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert shown.stdout.strip().partition("=")[2].replace(":", "").lower() == done["fingerprint"]
    assert 396 < (datetime.fromisoformat(done["not_after"]) - NOW).days <= 398
    real = Path(done["path"]).resolve()
    assert [mode(path) for path in (real, real.parent, real / "privkey.pem")] == [0o750, 0o750, 0o640]
    for check in (True, False):
        again = apply(check=check, names=["mail.acme.test"])
        assert not again["changed"] and again["fingerprint"] == done["fingerprint"]


def test_a_server_with_the_pair_is_trusted_by_a_client(apply: Any) -> None:
    live = Path(apply(**given(LEAF, MIDDLE))["path"])
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(live / "fullchain.pem", live / "privkey.pem")
    client_context = ssl.create_default_context(cadata=ROOT.pem)
    client_context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    left, right = socket.socketpair()

    def serve() -> None:
        with server_context.wrap_socket(left, server_side=True) as connection:
            connection.sendall(b"220")

    server = threading.Thread(target=serve)
    server.start()
    with client_context.wrap_socket(right, server_hostname=HOST) as connection:
        assert connection.recv(3) == b"220"
    server.join()


def test_new_names_renew_the_certificate_and_keep_the_key(apply: Any) -> None:
    before = files(apply())
    result = apply(names=["mail.acme.test"])
    after = files(result)
    assert result["changed"] and before[0] != after[0] and before[1] == after[1]


def test_a_certificate_near_its_end_is_renewed_with_its_key(apply: Any, tmp_path: Path) -> None:
    old = self_sign([HOST], NOW - timedelta(days=369), None)
    CertificateStore(str(tmp_path / "tls"), HOST).write(old.chain_pem, old.key_pem)
    planned = apply(check=True)
    assert planned["changed"] and planned["fingerprint"] is None
    result = apply()
    chain, key = files(result)
    assert result["changed"] and key == old.key_pem and chain != old.chain_pem


def test_thirty_days_decide() -> None:
    pair = self_sign([HOST], NOW, None)
    assert still_good(pair, [HOST], pair.not_after - timedelta(days=30))
    assert not still_good(pair, [HOST], pair.not_after - timedelta(days=30) + timedelta(seconds=1))
    assert not still_good(pair, [HOST, "other.test"], NOW)


def test_a_key_that_does_not_match_is_replaced(apply: Any) -> None:
    live = Path(apply()["path"])
    (live / "privkey.pem").write_text(LEAF.key_pem)
    assert apply(check=True)["changed"]
    parse_pair(*files(apply()))
    assert not apply()["changed"]


def test_drifted_access_is_planned_and_corrected(apply: Any) -> None:
    key = Path(apply()["path"]) / "privkey.pem"
    key.chmod(0o644)
    planned = apply(check=True)
    assert planned["changed"] and mode(key) == 0o644
    done = apply()
    assert done["diff"] == planned["diff"] and mode(key) == 0o640 and not apply()["changed"]


def test_a_given_pair_is_placed_whole(apply: Any) -> None:
    self_signed = apply()
    planned = apply(check=True, **given(LEAF, MIDDLE))
    assert files(self_signed) == files(apply(check=True))
    done = apply(**given(LEAF, MIDDLE))
    assert done["changed"] and done["diff"] == planned["diff"]
    chain, key = files(done)
    assert chain.decode() == LEAF.pem + MIDDLE.pem
    parse_pair(chain, key)
    assert not apply(**given(LEAF, MIDDLE))["changed"]
    # Back to self-signed: a key that an authority certified is not taken over.
    assert files(apply())[1] != key


def publish(tmp_path: Path, *digests: str) -> Path:
    """The list of TLSA records that are known everywhere, as the module dane writes it."""
    path = tmp_path / "tls" / HOST / "tlsa"
    path.write_text("".join(f"3 1 1 {digest}\n" for digest in digests))
    return path


def spki(content: tuple[bytes, bytes] | None) -> str | None:
    return parse_pair(*content).spki if content else None


def test_a_given_pair_with_another_key_waits_where_there_are_tlsa_records(apply: Any, tmp_path: Path) -> None:
    store = CertificateStore(str(tmp_path / "tls"), HOST)
    first, second = (issue(HOST, MIDDLE, names=(HOST,)) for _number in range(2))
    apply(**given(first, MIDDLE))
    live = spki(store.read())
    assert live
    publish(tmp_path, live)
    planned = apply(check=True, **given(second, MIDDLE))
    assert planned["changed"] and "waiting:" in planned["diff"]["after"] and store.read_next() is None
    waits = apply(**given(second, MIDDLE))
    assert waits["changed"] and waits["waiting"] and waits["dane"]
    assert waits["diff"] == planned["diff"]
    assert not apply(**given(second, MIDDLE))["changed"]
    assert spki(store.read()) == live != spki(store.read_next())
    # the owner thinks better of it
    assert apply(**given(first, MIDDLE))["changed"]
    assert store.read_next() is None and spki(store.read()) == live
    assert sorted(os.listdir(store.directory)) == sorted([Path(store.live).resolve().name, "live", "tlsa"])
    # a renewal with the same key does not wait
    builder = x509.CertificateBuilder(
        issuer_name=first.certificate.issuer, subject_name=first.certificate.subject,
        public_key=first.key.public_key(), serial_number=7, not_valid_before=NOW - timedelta(minutes=1),
        not_valid_after=NOW + timedelta(days=50),
    ).add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)  # fmt: skip
    renewed = Issued(builder.sign(MIDDLE.key, hashes.SHA256()), first.key)
    result = apply(**given(renewed, MIDDLE))
    assert result["changed"] and not result["waiting"]
    assert store.read() is not None and store.read()[0].decode() == renewed.pem + MIDDLE.pem  # type: ignore[index]


def test_another_key_for_a_self_signed_certificate(apply: Any, tmp_path: Path) -> None:
    store = CertificateStore(str(tmp_path / "tls"), HOST)
    apply()
    first = spki(store.read())
    # without TLSA records nobody has to wait
    assert apply(new_key=True)["changed"]
    second = spki(store.read())
    assert second and second != first and store.read_next() is None
    publish(tmp_path, second)
    planned = apply(check=True, new_key=True)
    assert planned["changed"] and "sha256: (new)" in planned["diff"]["after"].partition("waiting:")[2]
    assert apply(new_key=True)["waiting"]
    third = spki(store.read_next())
    assert third not in (None, first, second) and spki(store.read()) == second
    # asking again is the same wish
    assert not apply(new_key=True)["changed"] and not apply()["changed"]
    # other names renew both, each with its key
    assert apply(names=["a.acme.test"])["changed"]
    assert (spki(store.read()), spki(store.read_next())) == (second, third)
    assert all("a.acme.test" in parse_pair(*pair).names for pair in (store.read(), store.read_next()) if pair)
    assert not apply(names=["a.acme.test"])["changed"]


def test_back_from_files_to_a_self_signed_certificate_waits_too(apply: Any, tmp_path: Path) -> None:
    store = CertificateStore(str(tmp_path / "tls"), HOST)
    apply(**given(LEAF, MIDDLE))
    live = spki(store.read())
    assert live
    publish(tmp_path, live)
    assert apply()["waiting"]
    waiting = spki(store.read_next())
    assert spki(store.read()) == live and waiting
    assert not apply()["changed"] and spki(store.read_next()) == waiting
    (tmp_path / "tls" / HOST / "tlsa").unlink()
    assert apply()["changed"]
    assert (spki(store.read()), store.read_next()) == (waiting, None)


def test_the_previous_pair_stays_for_readers_and_older_ones_go(apply: Any) -> None:
    live = Path(apply()["path"])
    seen = [live.resolve().name]
    for name in ("a.acme.test", "b.acme.test"):
        apply(names=[name])
        seen.append(live.resolve().name)
    assert sorted(os.listdir(live.parent)) == sorted([*seen[1:], "live"])


def test_a_reader_never_sees_a_mismatched_pair(tmp_path: Path) -> None:
    store = CertificateStore(str(tmp_path), HOST)
    pairs = [self_sign([HOST], NOW, None) for _number in range(2)]
    keys = {pair.chain_pem: pair.key_pem for pair in pairs}
    store.write(pairs[0].chain_pem, pairs[0].key_pem)
    stop = threading.Event()

    def swap() -> None:
        for pair in itertools.cycle(pairs):
            if stop.is_set():
                return
            store.write(pair.chain_pem, pair.key_pem)

    writer = threading.Thread(target=swap)
    writer.start()
    seen: set[bytes] = set()
    reads = 0
    deadline = time.monotonic() + 30
    try:
        while (reads < 500 or len(seen) < 2) and time.monotonic() < deadline:
            assert os.path.lexists(store.live)
            try:
                chain, key = _read_live(store.live)
            except FileNotFoundError:
                # Two swaps passed since the link was followed: that pair is gone as a whole.
                continue
            assert keys[chain] == key
            seen.add(chain)
            reads += 1
    finally:
        stop.set()
        writer.join()
    assert reads >= 500 and len(seen) == 2


def test_a_crash_at_the_switch_leaves_the_old_pair_live_and_the_next_write_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CertificateStore(str(tmp_path), HOST)
    first, second = (self_sign([HOST], NOW, None) for _number in range(2))
    store.write(first.chain_pem, first.key_pem)
    rename = os.rename

    def cut(source: str, target: str) -> None:
        if target == store.live:
            raise OSError("power cut")
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", cut)
        with pytest.raises(OSError, match="power cut"):
            store.write(second.chain_pem, second.key_pem)
    assert store.read() == (first.chain_pem, first.key_pem)
    store.write(second.chain_pem, second.key_pem)
    assert store.read() == (second.chain_pem, second.key_pem)
    assert len(os.listdir(store.directory)) == 3


def _read_live(live: str) -> tuple[bytes, bytes]:
    """Follow the link once and read both files of the pair it led to."""
    directory = os.open(live, os.O_RDONLY | os.O_DIRECTORY)
    try:
        chain, key = (
            Path(f"/proc/self/fd/{directory}/{name}").read_bytes() for name in ("fullchain.pem", "privkey.pem")
        )
    finally:
        os.close(directory)
    return chain, key


EXPIRED = issue(HOST, MIDDLE, names=(HOST,), start=NOW - timedelta(days=100))
FUTURE = issue(HOST, MIDDLE, names=(HOST,), start=NOW + timedelta(days=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (given(LEAF, MIDDLE, key=MIDDLE), "the key belongs to certificate 2; put that one first"),
        (given(LEAF, MIDDLE, key=ROOT), "key_pem: the key is not that of the certificate 'CN=mx1.acme.test'"),
        (given(MIDDLE, LEAF, key=LEAF), "the key belongs to certificate 2; put that one first"),
        (given(EXPIRED, MIDDLE), "certificate 1 (CN=mx1.acme.test) expired on"),
        (given(FUTURE, MIDDLE), "certificate 1 (CN=mx1.acme.test) is not valid before"),
        (given(LEAF, ROOT), "certificate 1 was not issued by certificate 2 (CN=Root)"),
        (given(LEAF, ROOT, MIDDLE), "certificate 2 was not issued by certificate 3 (CN=Middle)"),
        (given(LEAF, MIDDLE) | {"names": ["other.test"]}, "(mx1.acme.test, *.mail.test) covers other.test"),
        (given(LEAF, MIDDLE) | {"certificate_pem": "x"}, "certificate_pem: not a chain of PEM certificates"),
        (given(LEAF, MIDDLE) | {"key_pem": "x"}, "key_pem: not a private key in PEM form"),
        (
            given(LEAF, MIDDLE)
            | {
                "key_pem": LEAF.key.private_bytes(
                    Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
                ).decode()
            },
            "key_pem: the key is encrypted",
        ),
        ({"mode": "files"}, "certificate_pem, key_pem"),
        ({"hostname": "../x"}, "hostname: '../x'"),
    ],
)
def test_a_bad_pair_is_refused_before_anything_is_written(apply: Any, arguments: dict[str, Any], message: str) -> None:
    before = files(apply())
    for check in (True, False):
        failed = apply(check=check, **arguments)
        assert failed["failed"] and message in failed["msg"]
    assert files(apply(check=True)) == before


def test_all_errors_of_a_given_pair_come_together() -> None:
    arguments = given(EXPIRED, ROOT)
    with pytest.raises(ValueError) as caught:
        check_given(arguments["certificate_pem"].encode(), arguments["key_pem"].encode(), ["other.test"], NOW)
    for part in ("expired on", "covers other.test", "was not issued by"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "hostname", "expected"),
    [
        ("a.test", "a.test", True),
        ("A.Test", "a.test", True),
        ("*.acme.test", "mx.acme.test", True),
        ("*.acme.test", "acme.test", False),
        ("*.acme.test", "a.mx.acme.test", False),
        ("*.test", "acme.test", False),
        ("m*.acme.test", "mx.acme.test", False),
        ("b.test", "a.test", False),
    ],
)
def test_which_names_a_certificate_covers(pattern: str, hostname: str, expected: bool) -> None:
    assert covers(pattern, hostname) is expected
