# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every inventory, good or bad."""

from __future__ import annotations

from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.model.build import Model, build_model
from ansible_collections.mailwright.server.plugins.module_utils.model.errors import UNREADABLE, ModelError
from ansible_collections.mailwright.server.plugins.module_utils.model.spec import OPTIONS, Options
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

SHA512 = "{SHA512-CRYPT}$6$saltsalt$" + "a" * 86


def known_keys(options: Options) -> set[str]:
    keys = set(options)
    for option in options.values():
        keys |= known_keys(option.get("options", {}))
    return keys


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.binary(max_size=3)
    | st.dates()
    | st.just(UNREADABLE)
    | st.sampled_from(
        ["acme.test", "alice", "alice@acme.test", "@", "a@b", "xn--\udcff.test", "\u00ad.test", "{}", "$6$", "0x1G"]
    )
)
KEYS = st.sampled_from(sorted(known_keys(OPTIONS))) | st.text(max_size=4) | st.integers() | st.none() | st.booleans()
GARBAGE = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6) | st.tuples(inner),
    max_leaves=25,
)


def shaped(option: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of nearly the right shape, with garbage in places."""
    if "options" in option:
        fitting: st.SearchStrategy[Any] = st.fixed_dictionaries(
            {}, optional={key: shaped(inner) for key, inner in option["options"].items()}
        )
        if option["type"] == "list":
            fitting = st.lists(fitting, max_size=3)
    elif option["type"] == "list":
        fitting = st.lists(SCALARS, max_size=3)
    else:
        fitting = SCALARS
    return st.one_of(fitting, fitting, fitting, GARBAGE)


VARIABLES = st.fixed_dictionaries(
    {},
    optional={
        **{name: shaped(option) for name, option in OPTIONS.items()},
        "mail_domains__x": shaped(OPTIONS["mail_domains"]),
        "mail_domains__\u00e4\n": shaped(OPTIONS["mail_domains"]),
        "mail_nothing": GARBAGE,
    },
)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(VARIABLES, st.lists(GARBAGE, max_size=3))
def test_garbage_raises_nothing_but_all_errors(variables: dict[str, Any], addresses: list[Any]) -> None:
    try:
        build_model(variables, default_addresses=addresses)
    except ModelError as error:
        assert error.errors
        for line in error.errors:
            assert line.lstrip("'").startswith("mail_")
            assert line.isprintable()
            assert line.isascii()


NAMES = st.sampled_from(["alice", "bob", "carol", "sales", "team", "postmaster", "abuse", "alice+x", "Zoë", "a.b"])
DOMAIN_NAMES = ["acme.test", "globex.test", "bücher.test"]
ADDRESSES = NAMES | st.builds("{}@{}".format, NAMES, st.sampled_from([*DOMAIN_NAMES, "elsewhere.example"]))
ALIASES = st.fixed_dictionaries({"name": NAMES, "to": st.lists(ADDRESSES, min_size=1, max_size=3)})
QUOTAS = st.none() | st.sampled_from([0, 2048, "1G", "1.5M"])


@st.composite
def mailboxes(draw: st.DrawFn) -> dict[str, Any]:
    secret = draw(st.sampled_from([{"password": "p"}, {"password_hash": SHA512}]))
    return {
        "name": draw(NAMES),
        "quota": draw(QUOTAS),
        "enabled": draw(st.booleans()),
        "display_name": draw(st.sampled_from(["", "Ann"])),
        "send_as": draw(st.lists(ADDRESSES, max_size=2)),
        **secret,
    }


@st.composite
def inventories(draw: st.DrawFn) -> dict[str, Any]:
    domains = [
        {
            "name": name,
            "enabled": draw(st.booleans()),
            "mta_sts": draw(st.sampled_from(["none", "testing", "enforce"])),
            "dmarc": draw(st.sampled_from(["none", "quarantine", "reject"])),
            "quota": draw(QUOTAS),
            "mailboxes": draw(st.lists(mailboxes(), max_size=4)),
            "aliases": draw(
                st.lists(
                    st.fixed_dictionaries({"name": NAMES, "to": st.lists(ADDRESSES, min_size=1, max_size=3)}),
                    max_size=3,
                )
            ),
            "catch_all": draw(st.lists(ADDRESSES, max_size=1)),
        }
        for name in draw(st.lists(st.sampled_from(DOMAIN_NAMES), max_size=3))
    ]
    cut = draw(st.integers(0, len(domains)))
    return {
        "mail_hostname": "mx1.acme.test",
        "mail_admin": draw(st.builds("{}@{}".format, NAMES, st.sampled_from([*DOMAIN_NAMES, "elsewhere.example"]))),
        "mail_domains": domains[:cut],
        "mail_domains__more": domains[cut:],
        "mail_features": {"clamav": draw(st.booleans())},
    }


def without_what_is_wrong(variables: dict[str, Any]) -> Model | None:
    """The model, after the entries that errors name were taken out one by one, or ``None``."""
    for _attempt in range(60):
        try:
            return build_model(variables).model
        except ModelError as error:
            path = error.errors[0].split(": ")[0]
            if path == "mail_admin":
                variables["mail_admin"] = "root@elsewhere.example"
            else:
                take_out(variables, path)
    return None


def take_out(variables: dict[str, Any], path: str) -> None:
    """Delete the innermost list item on the path."""
    steps = [int(step) if step.isdigit() else step for step in path.replace("]", "").replace("[", ".").split(".")]
    while not isinstance(steps[-1], int):
        steps.pop()
    holder: Any = variables
    for step in steps[:-1]:
        holder = holder[step]
    del holder[steps[-1]]


def as_inventory(model: Model) -> dict[str, Any]:
    """The variables from which the same model is built again."""

    def entry(domain: Any) -> dict[str, Any]:
        name = domain["name"]
        own = [row for row in model["aliases"] if row["address"].endswith(f"@{name}")]
        addresses = sorted({row["address"] for row in own if not row["address"].startswith("@")})
        return {
            **domain,
            "mailboxes": [
                {
                    "name": box["address"],
                    "display_name": box["display_name"],
                    "password": box["password"],
                    "password_hash": box["password_hash"],
                    "quota": box["quota_bytes"],
                    "enabled": box["enabled"],
                    "send_as": [row["address"] for row in model["senders"] if row["login"] == box["address"]],
                }
                for box in model["mailboxes"]
                if box["domain"] == name
            ],
            "aliases": [
                {"name": address, "to": [row["destination"] for row in own if row["address"] == address]}
                for address in addresses
            ],
            "catch_all": [row["destination"] for row in own if row["address"].startswith("@")],
        }

    tls = model["tls"]
    return {
        "mail_hostname": model["hostname"],
        "mail_admin": model["admin"],
        "mail_addresses": [*model["addresses"]["ipv4"], *model["addresses"]["ipv6"]],
        "mail_domains": [entry(domain) for domain in model["domains"]],
        "mail_features": model["features"],
        "mail_dns": model["dns"],
        "mail_tls": {key: tls[key] for key in ("certificate_file", "key_file", "acme")},
    }


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(inventories())
def test_good_models(variables: dict[str, Any]) -> None:
    model = without_what_is_wrong(variables)
    event("built" if model else "hopeless")
    if model is None:
        return
    assert build_model(as_inventory(model)).model == model

    domains = {domain["name"]: domain["enabled"] for domain in model["domains"]}
    boxes = {box["address"]: box for box in model["mailboxes"]}
    assert len(domains) == len(model["domains"])
    assert len(boxes) == len(model["mailboxes"])
    aliases: dict[str, set[str]] = {}
    for row in model["aliases"]:
        aliases.setdefault(row["address"], set()).add(row["destination"])
    assert len(model["aliases"]) == sum(map(len, aliases.values()))
    assert not boxes.keys() & aliases.keys()
    for address in [*boxes, *aliases]:
        assert address.partition("@")[2] in domains
        assert address.isascii()
        assert address == address.lower()
    for box in boxes.values():
        assert box["address"] == f"{box['local_part']}@{box['domain']}"
        assert (box["password"] is None) != (box["password_hash"] is None)

    for sender in model["senders"]:
        assert boxes[sender["login"]]["enabled"]
        assert domains[boxes[sender["login"]]["domain"]]
        assert domains[sender["address"].partition("@")[2]]
    assert model["senders"] == sorted(model["senders"], key=lambda row: (row["address"], row["login"]))

    for name, enabled in domains.items():
        for local_part in ("abuse", "postmaster"):
            address = f"{local_part}@{name}"
            if enabled and address != model["admin"]:
                assert address in boxes or address in aliases

    def follow(address: str, seen: tuple[str, ...] = ()) -> None:
        """Expand as Postfix does; a circle would never end."""
        assert address not in seen
        local_part, _at, domain = address.partition("@")
        for step in (address, f"{local_part.partition('+')[0]}@{domain}", f"@{domain}"):
            if step in boxes:
                return
            if step in aliases:
                for destination in aliases[step]:
                    follow(destination, (*seen, step) if step != address else (*seen, address))
                return

    for address in aliases:
        follow(address)
