# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether DNS blocklists (RFC 5782) have the host's addresses or the hosted domains."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

from ansible_collections.mailwright.server.plugins.module_utils.probes import resolver
from ansible_collections.mailwright.server.plugins.module_utils.probes.listings import Listing, is_address
from ansible_collections.mailwright.server.plugins.module_utils.probes.result import Result, Status

WORKERS = 16
# Every list of addresses has the first and none has the second; no list of domains has the third (RFC 5782 section 5).
LISTED_ADDRESS, UNLISTED_ADDRESS, UNLISTED_DOMAIN = "127.0.0.2", "127.0.0.1", "invalid"

_ANSWERS = ipaddress.ip_network("127.0.0.0/8")
# Spamhaus: 127.255.255.252 a misspelt list, .254 a public resolver, .255 too many questions; 127.0.1.255 an address
# asked for among domains. URIBL and others refuse with 127.0.0.1.
_REFUSALS = tuple(ipaddress.ip_network(text) for text in ("127.255.255.0/24", "127.0.1.255/32", "127.0.0.1/32"))
LONGEST_REASON = 200

Verdict = Literal["listed", "not listed", "unusable"]


class Answer(NamedTuple):
    """What a list says of an address or a domain: a code and the list's reason, or why it says nothing."""

    verdict: Verdict
    words: str = ""


class Question(NamedTuple):
    """An address or a domain, and the list that is asked for it."""

    zone: str
    subject: str


def query_name(question: Question) -> str:
    """The name to look up: octets or nibbles of an address in reverse, then the list."""
    if not is_address(question.subject):
        return f"{question.subject}.{question.zone}."
    address = ipaddress.ip_address(question.subject)
    return f"{address.reverse_pointer.removesuffix('.in-addr.arpa').removesuffix('.ip6.arpa')}.{question.zone}."


def read(reply: resolver.Reply) -> Answer:
    """What the answer to a question for type A means. What is no code of a list never counts as listed."""
    if reply.error is not None:
        return Answer("unusable", reply.error)
    for value in reply.values:
        code = ipaddress.ip_address(value)
        if code not in _ANSWERS:
            return Answer("unusable", f"{value} is no answer of a blocklist")
        if any(code in network for network in _REFUSALS):
            return Answer("unusable", f"{value}: it refuses questions of this host's resolver")
    return Answer("listed", ", ".join(reply.values)) if reply.values else Answer("not listed")


def evaluate(answers: Sequence[tuple[Question, Answer]], unusable: dict[str, str]) -> Result:
    """Judge the answers. `unusable` are the lists that cannot be asked, with the reason."""
    listed = [(question, answer.words) for question, answer in answers if answer.verdict == "listed"]
    silent = {
        **{question.zone: answer.words for question, answer in answers if answer.verdict == "unusable"},
        **unusable,
    }
    lines = [f"{question.subject} is listed by {question.zone}: {words}" for question, words in listed]
    lines += [f"{zone} cannot be asked: {words}" for zone, words in sorted(silent.items())]
    status: Status = "fail" if listed else "warn" if silent else "ok"
    zones = {question.zone for question, _answer in answers}
    fine = f"{len({question.subject for question, _answer in answers})} on none of {len(zones)} lists"
    data = {"listed": [[question.subject, question.zone] for question, _words in listed], "unusable": sorted(silent)}
    return Result("blocklists", "reports", status, lines[0] if lines else fine, tuple(lines[1:]), data=data)


def _self_test(zone: str, has_addresses: bool, answer_to: Callable[[Question], Answer]) -> str | None:
    """Why what this list says is worth nothing; None: it can be asked."""
    absent = answer_to(Question(zone, UNLISTED_ADDRESS if has_addresses else UNLISTED_DOMAIN))
    if absent.verdict != "not listed":
        return absent.words if absent.verdict == "unusable" else f"it lists everything: {absent.words}"
    if has_addresses:
        present = answer_to(Question(zone, LISTED_ADDRESS))
        if present.verdict != "listed":
            return present.words or f"it does not list its test entry {LISTED_ADDRESS}"
    return None


def _printable(value: str) -> str:
    """What a list says in its TXT record, on one line."""
    return "".join(char for char in value.strip('"') if char.isascii() and char.isprintable())[:LONGEST_REASON]


def ask(
    addresses: Sequence[str], domains: Sequence[str], address_lists: Sequence[str], domain_lists: Sequence[str],
    timeout: float,
) -> tuple[list[tuple[Question, Answer]], dict[str, str]]:  # fmt: skip
    """Ask every list that passes its test, by the host's own resolver; `timeout` in seconds for one question.

    Gives the answers, and why each of the other lists cannot be asked.
    """
    resolving = resolver.Resolver(timeout)

    def answer_to(question: Question) -> Answer:
        answer = read(resolving.ask(query_name(question), "A"))
        if answer.verdict == "listed":
            said = resolving.ask(query_name(question), "TXT").values
            return Answer("listed", " ".join([answer.words, *map(_printable, said)]))
        return answer

    asked = [(zone, addresses, True) for zone in address_lists] + [(zone, domains, False) for zone in domain_lists]
    with ThreadPoolExecutor(WORKERS) as pool:
        tests = pool.map(lambda entry: _self_test(entry[0], entry[2], answer_to), asked)
        unusable = {entry[0]: why for entry, why in zip(asked, tests, strict=True) if why is not None}
        questions = [
            Question(zone, subject) for zone, subjects, _kind in asked if zone not in unusable for subject in subjects
        ]
        return list(zip(questions, pool.map(answer_to, questions), strict=True)), unusable


def probe(
    addresses: Sequence[str], domains: Sequence[str], address_lists: Sequence[str], domain_lists: Sequence[str],
    timeout: float,
) -> list[Result]:  # fmt: skip
    """Ask, and judge."""
    if not resolver.HAVE_LIBRARIES:
        return [Result("blocklists", "reports", "fail", "python3-dnspython is not installed on the host")]
    return [evaluate(*ask(addresses, domains, address_lists, domain_lists, timeout))]


def listings(
    addresses: Sequence[str], domains: Sequence[str], address_lists: Sequence[str], domain_lists: Sequence[str],
    timeout: float,
) -> list[Listing]:  # fmt: skip
    """Ask, and write down what every list says of every address or domain, or why it says nothing."""
    answers, unusable = ask(addresses, domains, address_lists, domain_lists, timeout)
    found = [
        Listing(question.zone, question.subject, None if answer.verdict == "unusable" else answer.verdict == "listed",
                answer.words)
        for question, answer in answers
    ]  # fmt: skip
    for lists, subjects in ((address_lists, addresses), (domain_lists, domains)):
        found += [
            Listing(zone, subject, None, unusable[zone]) for zone in lists if zone in unusable for subject in subjects
        ]
    return sorted(found, key=lambda one: (one.zone, one.subject))
