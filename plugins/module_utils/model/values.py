# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The syntax of the single values: names, addresses, sizes and password hashes.

Every function returns the normalised value or raises ``ValueError`` with a text that says what would be right.
None of them ever puts a password or a hash into that text.
"""

from __future__ import annotations

import base64
import encodings.idna
import ipaddress
import re
import unicodedata
import urllib.parse
from collections.abc import Collection

from .errors import shown

LONGEST_ADDRESS = 254  # RFC 5321 4.5.3.1.3 allows a path of 256, which includes its angle brackets
LONGEST_LOCAL_PART = 64  # RFC 5321 4.5.3.1.1
LONGEST_DOMAIN = 253  # RFC 1035 2.3.4 allows 255 octets on the wire
LONGEST_TEXT = 255
LONGEST_PASSWORD = 512
LARGEST_SIZE = 2**63 - 1  # PostgreSQL's bigint
SMALLEST_SIZE = 1024
SHORTEST_SECRET = 16  # RFC 8945 section 8 wants no fewer bytes than the digest has; some servers make fewer

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_KEY_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
# IDNA2003, which Python has, and IDNA2008 disagree about these: to guess would be another domain
_JOINERS = "\u200c\u200d"  # RFC 5892 A.1 and A.2 allow them in some scripts
_DOTS = re.compile("[.\u3002\uff0e\uff61]")  # RFC 3490 3.1
_IDNA_DEVIATIONS = re.compile("[\u00df\u1e9e\u03c2\u200c\u200d]")
# no + (it separates the detail), nothing that Dovecot's auth_username_chars lacks, no - first (Postfix allow_min_user)
_MAILBOX = re.compile(r"[a-z0-9_][a-z0-9_-]*(?:\.[a-z0-9_-]+)*")
_ALIAS = re.compile(r"[a-z0-9_][a-z0-9_+=&'-]*(?:\.[a-z0-9_+=&'-]+)*")
# RFC 5322 atext without what Postfix rewrites (! and %) and what is a path or a command in local(8) (/ and |)
_FOREIGN = re.compile(r"[A-Za-z0-9_#$&'*+=?^`{}~][A-Za-z0-9_#$&'*+=?^`{}~-]*(?:\.[A-Za-z0-9_#$&'*+=?^`{}~-]+)*")
_SIZE = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,3}))?\s?([KMGTkmgt]?)")
_FACTORS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}

_BASE64 = r"[A-Za-z0-9+/]"
_ARGON2 = rf"v=\d{{1,3}}\$m=\d{{1,8}},t=\d{{1,4}},p=\d{{1,3}}\${_BASE64}{{8,86}}={{0,2}}\${_BASE64}{{16,172}}={{0,2}}"
_HASHES = {
    "ARGON2ID": re.compile(rf"\$argon2id\${_ARGON2}"),
    "ARGON2I": re.compile(rf"\$argon2i\${_ARGON2}"),
    "BLF-CRYPT": re.compile(r"\$2[aby]\$(?:0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}"),
    "SHA512-CRYPT": re.compile(r"\$6\$(?:rounds=[1-9][0-9]{3,8}\$)?[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]{86}"),
}
_BARE_PREFIXES = {
    "$argon2id$": "ARGON2ID",
    "$argon2i$": "ARGON2I",
    "$2a$": "BLF-CRYPT",
    "$2b$": "BLF-CRYPT",
    "$2y$": "BLF-CRYPT",
    "$6$": "SHA512-CRYPT",
}
_SCHEME = re.compile(r"\{([A-Za-z0-9.-]{1,32})\}(.*)", re.DOTALL)
_LOOKS_LIKE_HASH = re.compile(
    r"\{(?:ARGON2|BLF-|SHA|SSHA|SMD5|MD5|LDAP-MD5|PLAIN|CLEAR|CRYPT|DES-|PBKDF2|CRAM-|DIGEST-|HMAC-|SCRAM-|OTP|LANMAN|NTLM)"
    r"[A-Za-z0-9.-]*\}|\$(?:argon2|2[abxy]?\$|[1567y]\$|sha1\$|apr1\$|scrypt\$|pbkdf2)",
    re.IGNORECASE,
)


def has_control(text: str) -> bool:
    """Whether the text has line breaks, control characters or halves of surrogate pairs."""
    if text.isascii():
        return not text.isprintable()
    return any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text)


def parse_domain(text: str, what: str = "a domain") -> str:
    """``Bücher.Example`` -> ``xn--bcher-kva.example``: small letters, A-labels (RFC 5890), at least two labels."""
    example = f"is not {what}: write a name such as example.org"
    if not text or len(text) > LONGEST_DOMAIN:
        raise ValueError(f"{shown(text)} {example}, at most {LONGEST_DOMAIN} characters long")
    if not text.isascii():
        if _IDNA_DEVIATIONS.search(text):
            raise ValueError(f"{shown(text)} means different domains in IDNA 2003 and 2008: write its xn-- form")
        try:
            text = ".".join(encodings.idna.ToASCII(label).decode("ascii") for label in _DOTS.split(text))
        except UnicodeError:
            raise ValueError(f"{shown(text)} is not an internationalised domain: write its xn-- form") from None
    name = text.lower()
    labels = name.split(".")
    if len(name) > LONGEST_DOMAIN or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{shown(text)} {example}, of letters, digits, - and .")
    if len(labels) < 2:
        raise ValueError(f"{shown(text)} is a single label: write the full name, such as mail.example.org")
    if labels[-1].isdigit():
        raise ValueError(f"{shown(text)} {example}, whose last label is not a number")
    for label in labels:
        if label[2:4] == "--" and not _is_a_label(label):
            raise ValueError(f"{shown(text)} has the label {shown(label)}, which is not a valid xn-- label")
    return name


def parse_zone(text: str) -> str:
    """A zone's name, as ``parse_domain``; names such as ``_domainkey.example.org`` can be zones of their own."""
    below = re.match(r"(?:_[A-Za-z0-9-]{1,62}\.)*", text)
    prefix = below[0].lower() if below else ""
    return prefix + parse_domain(text[len(prefix) :], "a zone")


def parse_hostname(text: str) -> str:
    """A host's full name, as ``parse_domain``."""
    return parse_domain(text, "a host name")


def _is_a_label(label: str) -> bool:
    if not label.startswith("xn--"):
        return False
    try:
        decoded = label[4:].encode("ascii").decode("punycode")
        known = all(char in _JOINERS or unicodedata.category(char)[0] not in "CZ" for char in decoded)
        return known and not decoded.isascii() and decoded.encode("punycode").decode("ascii") == label[4:]
    except (UnicodeError, ValueError, OverflowError):
        return False


def _parse_local_part(text: str, pattern: re.Pattern[str], allowed: str) -> str:
    # before lower(): some letters outside ASCII become ASCII letters by it
    name = text.lower() if text.isascii() else ""
    if not pattern.fullmatch(name):
        raise ValueError(f"{shown(text)} is not a local part: write {allowed}; no dot at an end, no two dots together")
    if len(name) > LONGEST_LOCAL_PART:
        raise ValueError(f"{shown(text)} is too long: a local part has at most {LONGEST_LOCAL_PART} characters")
    return name


def parse_mailbox_name(text: str) -> str:
    """The local part of a mailbox, which becomes a directory's name: small letters, digits, ``.``, ``_``, ``-``."""
    return _parse_local_part(text, _MAILBOX, "letters, digits, and . _ - (a - not first)")


def parse_local_part(text: str) -> str:
    """The local part of any address of a hosted domain: a mailbox's, or an alias's with ``+ = & '`` as well."""
    return _parse_local_part(text, _ALIAS, "letters, digits, and . _ - + = & ' (a letter, a digit or _ first)")


def parse_foreign_local_part(text: str) -> str:
    """The local part of an address elsewhere (RFC 5322 dot-atom); its case is kept, for it may matter there."""
    if not _FOREIGN.fullmatch(text):
        raise ValueError(
            f"{shown(text)} is not a local part: write it without quotes, spaces and any of ! % / | ( ) < > , ; : \\"
        )
    if len(text) > LONGEST_LOCAL_PART:
        raise ValueError(f"{shown(text)} is too long: a local part has at most {LONGEST_LOCAL_PART} characters")
    return text


def join_address(local_part: str, domain: str) -> str:
    """``local_part@domain``, no longer than RFC 5321 allows."""
    address = f"{local_part}@{domain}"
    if len(address) > LONGEST_ADDRESS:
        raise ValueError(f"{shown(address)} is too long: an address has at most {LONGEST_ADDRESS} characters")
    return address


def parse_email(text: str) -> str:
    """An address anywhere."""
    local_part, at, host = text.rpartition("@")
    if not at:
        raise ValueError(f"{shown(text)} is not an address: write a full one, such as hostmaster@example.org")
    return join_address(parse_foreign_local_part(local_part), parse_domain(host, "the domain of an address"))


def parse_size(value: object) -> int:
    """``2G``, ``500M``, ``1.5T`` or a number of bytes -> bytes (K is 1024); 0 is unlimited."""
    wrong = f"{shown(value)} is not a size: write a number with K, M, G or T, such as 2G, or 0 for unlimited"
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(wrong)
    if isinstance(value, int):
        size = value
    else:
        match = _SIZE.fullmatch(value) if value.isascii() else None
        if match is None:
            raise ValueError(wrong)
        whole, fraction, unit = match.group(1), match.group(2) or "", match.group(3).upper()
        size = int(whole + fraction) * _FACTORS[unit] // 10 ** len(fraction)
    if size < 0 or size > LARGEST_SIZE:
        raise ValueError(wrong)
    if 0 < size < SMALLEST_SIZE:
        raise ValueError(f"{shown(value)} is a size of {size} bytes: write the unit too, such as {size}M")
    return size


def parse_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address that a mail host can be reached at."""
    try:
        if "%" in text:
            raise ValueError
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not an IP address: write 198.51.100.10 or 2001:db8::10, say") from None
    if address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local:
        raise ValueError(f"{shown(text)} cannot be reached from outside: write the host's public address")
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        raise ValueError(f"{shown(text)} is an IPv4 address in IPv6 form: write {address.ipv4_mapped}")
    return address


def parse_resolver(text: str) -> str:
    """The address of a DNS server, which may be on loopback."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f"{shown(text)} is not an IP address: write 192.0.2.53 or 2001:db8::53, say") from None


def parse_relay(text: str) -> str:
    """Where Postfix is to send mail on to: a host, in brackets as its MX records do not count, and a port."""
    found = re.fullmatch(r"\[([^\[\]]+)\](?::([1-9][0-9]{0,4}))?", text)
    try:
        if found is None or int(found[2] or 25) > 65535:
            raise ValueError
        host = parse_hostname(found[1])
    except ValueError:
        raise ValueError(f"{shown(text)} is not a relay: write one such as [smtp.example.net]:587") from None
    return f"[{host}]:{found[2] or 25}"


def parse_url(text: str) -> str:
    """An HTTPS URL, in ASCII and without user, password, query and fragment."""
    try:
        parts = urllib.parse.urlsplit(text)
        good = parts.scheme == "https" and parts.hostname and parts.username is None and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or not text.isascii() or has_control(text) or re.search(r"[\s?#\"'\\]", text):
        raise ValueError(f"{shown(text)} is not a URL: write one such as https://acme.example.org/directory")
    return text


def parse_bimi_url(text: str) -> str:
    """An HTTPS URL as parse_url takes it, which does not end a BIMI record's tag nor its list either."""
    try:
        url = parse_url(text)
    except ValueError:
        url = ","
    if re.search("[,;]", url):
        raise ValueError(f"{shown(text)} is not an HTTPS URL: write one such as https://www.example.org/logo.svg")
    return url


def parse_choice(choices: Collection[str], text: str) -> str:
    """One of the given words."""
    if text not in choices:
        raise ValueError(f"{shown(text)} is not known: write {' or '.join(choices)}")
    return text


def parse_key_name(text: str) -> str:
    """The name of a TSIG key (RFC 8945 section 4.2): a domain name, which may be a single label; no final dot."""
    name = text.lower().removesuffix(".")
    if len(name) > LONGEST_DOMAIN or not all(_KEY_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"{shown(text)} is not the name of a TSIG key: write it as in the DNS server's configuration")
    return name


def parse_key_secret(text: str) -> str:
    """The secret of a TSIG key, in base64."""
    try:
        good = len(base64.b64decode(text, validate=True)) >= SHORTEST_SECRET
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"is not base64 of at least {SHORTEST_SECRET} bytes: copy it whole (the value is not shown)")
    return text


def parse_text(text: str) -> str:
    """One line of text for people."""
    if has_control(text):
        raise ValueError(f"{shown(text)} has a line break or a control character: write one line of text")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"{shown(text)} is too long: write at most {LONGEST_TEXT} characters")
    return text.strip()


def parse_password(text: str) -> str:
    """A password as its owner types it."""
    if not text:
        raise ValueError("is empty: write a password, or give a password_hash instead")
    if has_control(text):
        raise ValueError("has a line break or a control character: write one line (the value is not shown)")
    if len(text.encode()) > LONGEST_PASSWORD:
        raise ValueError(f"is too long: write at most {LONGEST_PASSWORD} bytes (the value is not shown)")
    if _LOOKS_LIKE_HASH.match(text):
        raise ValueError("looks like a hash: write it as password_hash instead (the value is not shown)")
    return text


def parse_password_hash(text: str) -> str:
    """``{SCHEME}hash`` with one of Dovecot's schemes that are allowed here; a bare hash gets its prefix."""
    match = _SCHEME.fullmatch(text)
    if match is not None:
        scheme, body = match.group(1).upper(), match.group(2)
        if scheme not in _HASHES:
            raise ValueError(f"has a scheme that is not allowed: use {', '.join(_HASHES)} (the value is not shown)")
    else:
        scheme = next((name for prefix, name in _BARE_PREFIXES.items() if text.startswith(prefix)), "")
        body = text
        if not scheme:
            raise ValueError(
                f"is not a hash with one of the schemes {', '.join(_HASHES)}: "
                "make one with `doveadm pw -s ARGON2ID` (the value is not shown)"
            )
    if not body.isascii() or not _HASHES[scheme].fullmatch(body):
        raise ValueError(f"is no whole {scheme} hash: make one with `doveadm pw -s {scheme}` (the value is not shown)")
    return f"{{{scheme}}}{body}"
