# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module dns_records with zone files as its provider; name servers are the integration tests' business."""

from __future__ import annotations

import ast
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.mailwright.server.plugins.module_utils.dns import publish
from ansible_collections.mailwright.server.plugins.module_utils.dns.ledger import LedgerError
from ansible_collections.mailwright.server.plugins.module_utils.dns.ledger_file import locked, write_ledger
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers import registry
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.registry import (
    PROVIDERS,
    SettingsError,
    known_settings,
    open_provider,
    secrets_of,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.publish import assign, parse_records
from ansible_collections.mailwright.server.plugins.module_utils.dns.verify import Server, parse_server
from ansible_collections.mailwright.server.plugins.modules import dns_records

pytestmark = pytest.mark.usefixtures("module_process")

MX = {"name": "acme.test", "type": "MX", "ttl": 300, "values": ["10 MX1.acme.test."]}
A = {"name": "mx1.sub.acme.test.", "type": "A", "ttl": 300, "values": ["192.0.2.1"]}


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the module on zone files and a ledger of its own; gives the result."""

    def module(records: Any, check: bool = False, **more: Any) -> dict[str, Any]:
        arguments = {
            "owner": "mx1",
            "ledger": str(tmp_path / "state/ledger.json"),
            "providers": {"hand": {"type": "manual", "path": str(tmp_path / "zones")}},
            "zones": {"acme.test": "hand", "sub.acme.test.": "hand"},
            "records": records,
        } | more
        with (
            patch_module_args(arguments | {"_ansible_check_mode": check, "_ansible_diff": True}),
            pytest.raises(SystemExit),
        ):
            dns_records.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return module


def test_a_zone_file_for_each_zone(run: Any, tmp_path: Path) -> None:
    planned = run([MX, A], check=True)
    assert planned["changed"] and list(tmp_path.iterdir()) == []
    first = run(json.dumps([MX, A]))
    assert first["changes"] == planned["changes"] and first["diff"] == planned["diff"]
    assert sorted(path.name for path in (tmp_path / "zones").iterdir()) == ["acme.test.zone", "sub.acme.test.zone"]
    lines = (tmp_path / "zones/acme.test.zone").read_text().splitlines()
    assert lines[0].startswith(";") and lines[1:] == ["acme.test. 300 IN MX 10 mx1.acme.test."]
    assert not run([MX, A])["changed"]
    last = run([A])
    assert [one["after"] for one in last["changes"]] == [[]]
    assert (tmp_path / "zones/acme.test.zone").read_text().splitlines()[1:] == []


def test_a_zone_file_spoiled_by_hand_is_an_error(run: Any, tmp_path: Path) -> None:
    run([MX, A])
    before = (tmp_path / "state/ledger.json").read_text()
    (tmp_path / "zones/acme.test.zone").write_text("acme.test. 300 IN MX\n")
    result = run([MX])
    assert result["failed"] and "acme.test.zone, line 1" in result["msg"]
    assert (tmp_path / "state/ledger.json").read_text() == before
    assert "sub.acme.test" in (tmp_path / "zones/sub.acme.test.zone").read_text()


def test_all_mistakes_in_the_arguments_at_once(run: Any) -> None:
    result = run(
        [{"name": "x.test"}, MX, MX, {**A, "values": ["no address"]}, {**A, "ttl": -1}, {**A, "values": "192.0.2.1"}],
        zones={"acme.test": "hand", "other.test": "nobody", "more.test": "wrong"},
        providers={"hand": {"type": "manual", "path": "zones", "colour": "red"}, "wrong": {"type": "carrier-pigeon"}},
        verify_servers={"acme.test": ["ns1"]},
    )
    for text in (
        "records[0]: has no type",
        "records[2]: acme.test. MX is there twice",
        "records[3]: ",
        "records[4]: ttl: -1: must be",
        "records[5]: values: must be a list",
        "zones.other.test.: 'nobody': is not one of the providers: hand, wrong",
        "providers.hand.colour: unknown; manual has path",
        "providers.wrong.type: 'carrier-pigeon': must be one of cloudflare, desec, ",
        "verify_servers.acme.test: 'ns1' is not an address",
    ):
        assert text in result["msg"], text
    assert "must be a list" in run("not JSON")["msg"]


def test_a_ledger_that_cannot_be_read_stops_everything(run: Any, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/ledger.json").write_text("{}")
    result = run([MX])
    assert "is not a ledger" in result["msg"] and "restore it" in result["msg"] and not (tmp_path / "zones").exists()


def test_a_zone_that_is_no_longer_configured_is_told(run: Any) -> None:
    run([MX, A])
    result = run([MX], zones={"acme.test": "hand"})
    assert "zone sub.acme.test.: the ledger says" in str(result["warnings"]) and not result["changed"]


def test_no_secret_and_nothing_else_is_cut_out(run: Any) -> None:
    settings = {"type": "powerdns", "url": "http://127.0.0.1:9", "key": "geheim-1", "timeout": 1}
    result = run([MX], providers={"hand": settings})
    text = json.dumps(result)
    assert "geheim" not in text and "http://127.0.0.1:9: no answer" in result["msg"]
    wrong: dict[str, Any] = {
        "type": "rfc2136",
        "server": "127.0.0.1",
        "key_name": "k.",
        "key_secret": "geheim-2",
        "port": "x",
    }
    text = json.dumps(run([MX], providers={"hand": wrong}))
    assert "geheim" not in text and "providers.hand.port: 'x': must be a whole number" in text
    wrong["port"] = 53
    text = json.dumps(run([MX], providers={"hand": wrong}))
    assert "geheim" not in text and "a key in Base64" in text
    text = json.dumps(run([MX], providers={"hand": {"type": "nonsense", "token": "geheim-3"}}))
    assert "geheim" not in text


def test_settings_that_are_missing_or_of_the_wrong_type() -> None:
    with pytest.raises(SettingsError, match="server: missing: address or name"):
        open_provider({"type": "rfc2136", "key_name": "k.", "key_secret": "QUFB"})
    with pytest.raises(SettingsError, match="key_algorithm: 'md5': must be one of hmac-sha224"):
        open_provider(
            {"type": "rfc2136", "server": "a", "key_name": "k.", "key_secret": "QUFB", "key_algorithm": "md5"}
        )
    with pytest.raises(SettingsError, match="url: 'ftp://x'"):
        open_provider({"type": "powerdns", "url": "ftp://x", "key": "k"})
    with pytest.raises(SettingsError, match="key: its value: must be"):
        open_provider({"type": "powerdns", "url": "http://x", "key": 5})


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_every_provider_describes_its_settings(name: str) -> None:
    settings = known_settings({"type": name})
    assert settings and all(setting.meaning for setting in settings.values())
    secret = {key for key, setting in settings.items() if setting.secret}
    assert secrets_of({"type": name, **dict.fromkeys(settings, "value")}) == ({"value"} if secret else set())


def test_ansible_finds_every_provider_by_an_import() -> None:
    tree = ast.parse(Path(str(registry.__file__)).read_text(encoding="utf-8"))
    named = {name.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names}
    assert {module for module, _class in PROVIDERS.values()} <= named


def test_the_longest_zone_gets_the_record() -> None:
    records, errors = parse_records([MX, A, {**A, "name": "elsewhere.test."}, {**A, "name": "xacme.test"}])
    assert not errors
    by_zone, homeless = assign(records, ["acme.test.", "sub.acme.test."])
    assert {zone: [one.name for one in found] for zone, found in by_zone.items()} == {
        "acme.test.": ["acme.test."],
        "sub.acme.test.": ["mx1.sub.acme.test."],
    }
    assert [one.name for one in homeless] == ["elsewhere.test.", "xacme.test."]


def test_servers_are_read_with_their_ports() -> None:
    assert parse_server("192.0.2.1") == Server("192.0.2.1")
    assert parse_server("192.0.2.1:5300") == Server("192.0.2.1", 5300)
    assert parse_server("2001:db8::1") == Server("2001:db8::1")
    assert parse_server("[2001:db8::1]:5300") == Server("2001:db8::1", 5300)
    for text in ("ns1.test", "192.0.2.1:", "192.0.2.1:x", "[192.0.2.1", ""):
        with pytest.raises(ValueError):
            parse_server(text)


def hold(path: str, ready: Any, done: Any) -> None:
    """Hold the ledger's lock in another process."""
    with locked(path):
        ready.set()
        done.wait(30)


def test_one_run_at_a_time(tmp_path: Path) -> None:
    path = str(tmp_path / "ledger.json")
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(path, ready, done))
    other.start()
    assert ready.wait(30)
    with pytest.raises(LedgerError, match="another run"), locked(path, wait=0.3):
        pass
    done.set()
    with locked(path, wait=30):
        other.join()


def test_no_zone_is_written_before_all_are_planned_and_announced(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real = write_ledger

    def watched(path: str, ledger: Any) -> None:
        files = tmp_path / "zones"
        steps.append("ledger before any zone" if not files.exists() else "ledger after the zones")
        real(path, ledger)

    monkeypatch.setattr(publish, "write_ledger", watched)
    run([MX, A])
    assert steps == ["ledger before any zone", "ledger after the zones"]
    steps.clear()
    run([MX, A])
    assert steps == []
