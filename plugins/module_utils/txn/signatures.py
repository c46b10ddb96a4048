# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verify the DKIM signatures of a message against the host's own keys (RFC 6376). Pure but for openssl."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence

Field = tuple[str, str]


def fields_of(head: str) -> list[Field]:
    """Name and value of every header field; the value with its line breaks."""
    found: list[Field] = []
    for line in head.split("\r\n"):
        if line[:1] in (" ", "\t") and found:
            found[-1] = (found[-1][0], f"{found[-1][1]}\r\n{line}")
        elif ":" in line:
            name, _colon, value = line.partition(":")
            found.append((name, value))
    return found


def tags_of(value: str) -> dict[str, str]:
    """The tags of a signature."""
    pairs = (part.partition("=") for part in value.split(";"))
    return {name.strip(): re.sub(r"\s+", "", text) for name, equals, text in pairs if equals}


def relaxed_field(name: str, value: str) -> str:
    """A header field in relaxed form (section 3.4.2)."""
    value = re.sub(r"[ \t]+", " ", value.replace("\r\n", "")).strip(" ")
    return f"{name.strip().lower()}:{value}"


def canonical_body(body: bytes, relaxed: bool) -> bytes:
    """The body in relaxed or simple form (sections 3.4.3 and 3.4.4)."""
    if relaxed:
        body = b"\r\n".join(re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in body.split(b"\r\n"))
    body = re.sub(rb"(\r\n)*\Z", b"", body)
    return body + b"\r\n" if body or not relaxed else b""


def signed_headers(fields: Sequence[Field], signature: Field, names: Sequence[str], relaxed: bool) -> bytes:
    """The bytes that the signature covers: of each name the last field not taken yet, then the signature without b=."""
    left = list(fields)
    chosen = []
    for name in names:
        for index in reversed(range(len(left))):
            if left[index][0].strip().lower() == name.lower():
                chosen.append(left.pop(index))
                break
    own = (signature[0], re.sub(r"((?:^|;)\s*b\s*=)[^;]*", r"\1", signature[1]))
    form: Callable[[str, str], str] = relaxed_field if relaxed else lambda name, value: f"{name}:{value}"
    text = "".join(f"{form(*field)}\r\n" for field in chosen) + form(*own)
    return text.encode("utf-8", "surrogateescape")


def verify(message: bytes, key_file: Callable[[str, str], str | None]) -> dict[str, str]:
    """Selector -> empty, or what is wrong, for every signature. key_file gives the private key of domain, selector."""
    head, _blank, body = message.partition(b"\r\n\r\n")
    fields = fields_of(head.decode("utf-8", "surrogateescape"))
    found = {}
    for index, field in enumerate(fields):
        if field[0].strip().lower() == "dkim-signature":
            tags = tags_of(field[1])
            path = key_file(tags.get("d", ""), tags.get("s", ""))
            others = [other for number, other in enumerate(fields) if number != index]
            found[tags.get("s", "")] = _judge(field, tags, others, body, path)
    return found


def _judge(field: Field, tags: dict[str, str], others: Sequence[Field], body: bytes, path: str | None) -> str:
    header_form, _slash, body_form = tags.get("c", "simple").partition("/")
    digest = hashlib.sha256(canonical_body(body, body_form == "relaxed")).digest()
    if base64.b64encode(digest).decode() != tags.get("bh"):
        return "the body is not the one that was signed"
    if path is None:
        return "the host has no such key"
    covered = signed_headers(others, field, tags.get("h", "").split(":"), header_form == "relaxed")
    return "" if _openssl(tags.get("a", ""), path, covered, base64.b64decode(tags.get("b", ""))) else "does not verify"


def ed25519_public(key: bytes) -> str:
    """The public key in PEM form of a private one as the filter reads it: seed and public key in base64."""
    # RFC 8410 section 4: what comes before the key in a SubjectPublicKeyInfo
    info = bytes.fromhex("302a300506032b6570032100") + base64.b64decode(key)[32:]
    return f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(info).decode()}\n-----END PUBLIC KEY-----\n"


def _openssl(algorithm: str, key: str, covered: bytes, signature: bytes) -> bool:
    with tempfile.TemporaryDirectory() as directory:
        signed, data, public = (os.path.join(directory, name) for name in ("signature", "data", "public"))
        with open(signed, "wb") as stream:
            stream.write(signature)
        # an Ed25519 signature is over the hash (RFC 8463 section 3)
        with open(data, "wb") as stream:
            stream.write(hashlib.sha256(covered).digest() if algorithm == "ed25519-sha256" else covered)
        if algorithm == "ed25519-sha256":
            with open(key, "rb") as stream, open(public, "w", encoding="ascii") as target:
                target.write(ed25519_public(stream.read()))
        else:
            subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
        if algorithm == "ed25519-sha256":
            argv = [
                "openssl",
                "pkeyutl",
                "-verify",
                "-pubin",
                "-inkey",
                public,
                "-rawin",
                "-in",
                data,
                "-sigfile",
                signed,
            ]
        else:
            argv = ["openssl", "dgst", "-sha256", "-verify", public, "-signature", signed, data]
        return subprocess.run(argv, check=False, capture_output=True).returncode == 0
