# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every mail server, whatever its features."""

from __future__ import annotations

import re
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.mailwright.server.molecule.resources.server import Server, read_reply

DEFAULTS = Path(__file__).resolve().parents[3] / "roles/base/defaults/main.yml"
PACKAGES: dict[str, list[str]] = yaml.safe_load(DEFAULTS.read_text())["base_packages"]
UNITS = [
    "dovecot.service",
    "fail2ban.service",
    "nftables.service",
    "nginx.service",
    "php8.4-fpm.service",
    "postfix.service",
    "postgresql@17-main.service",
    "redis-server.service",
    "rspamd.service",
    "unbound.service",
]
TLS_PORTS = [25, 443, 465, 587, 993, 4190]


def public_ports(server: Server) -> set[int]:
    """SSH, SMTP, submission, IMAP, ManageSieve, the web; POP3 where it is wanted."""
    return {22, 25, 80, 443, 465, 587, 993, 4190} | ({995} if server.feature("pop3") else set())


def listeners(host: Any, protocol: str) -> list[tuple[str, int, str]]:
    """(address, port, programs) of every listening socket, from ss(8)."""
    lines = host.check_output(f"ss -Hln{protocol}p").splitlines()
    found = [(line.split()[3].rpartition(":"), line.partition("users:")[2]) for line in lines]
    return [(address.split("%")[0], int(port), programs) for (address, _colon, port), programs in found]


def is_loopback(address: str) -> bool:
    return address == "[::1]" or address.startswith("127.")


def test_packages_of_the_enabled_features_and_no_others(server: Server, host: Any) -> None:
    installed = set(host.check_output("dpkg-query -W -f '${db:Status-Status} ${Package}\\n'").splitlines())
    for group, names in PACKAGES.items():
        wanted = "mail_backup" in server.variables if group == "backup" else group == "core" or server.feature(group)
        # the SSH client comes with the server, by which the host is reached
        told = [name for name in names if name != "openssh-client"]
        assert {name: f"installed {name}" in installed for name in told} == dict.fromkeys(told, wanted), group


@pytest.mark.parametrize("unit", UNITS)
def test_service_runs_and_is_started_at_boot(host: Any, unit: str) -> None:
    service = host.service(unit)
    assert service.is_running
    assert service.is_enabled


def test_every_timer_that_is_enabled_runs(host: Any) -> None:
    """Those of packages too, which may start nothing while they are installed."""
    listed = host.check_output("systemctl list-unit-files --type=timer --state=enabled --plain --no-legend")
    enabled = {line.split()[0] for line in listed.splitlines()}
    active = host.check_output("systemctl list-units --type=timer --state=active --plain --no-legend")
    # the one never runs in a container, and what the other one fetches the daemon has
    spared = {"fstrim.timer", "clamav-freshclam-once.timer"}
    assert enabled - {line.split()[0] for line in active.splitlines()} <= spared
    assert "logrotate.timer" in enabled


def test_no_unit_has_failed(host: Any) -> None:
    assert host.check_output("systemctl list-units --failed --plain --no-legend") == ""


def test_sockets_listen_where_intended_only(server: Server, host: Any) -> None:
    tcp = listeners(host, "t")
    assert {port for address, port, _programs in tcp if not is_loopback(address)} == public_ports(server)
    # the resolver, IMAP for the webmail, Rspamd's controller, other domains' MTA-STS policies, Outlook's question, SRS
    inside = {53, 143, 11334, 8461, 8480, 10001, 10002, 10003}
    assert {port for address, port, _programs in tcp if is_loopback(address)} == inside
    assert {port for _address, port, programs in tcp if '"rspamd"' in programs} == {11334}
    assert [port for _address, port, programs in tcp if '"postgres"' in programs or '"redis-server"' in programs] == []
    assert {(is_loopback(address), port) for address, port, _programs in listeners(host, "u")} == {(True, 53)}


def test_only_the_public_ports_can_be_reached(server: Server, host: Any) -> None:
    def answers(port: int) -> bool:
        try:
            socket.create_connection((server.address, port), 2).close()
        except OSError:
            return False
        return True

    # one that listens on all addresses and is not in the firewall's list
    open_port = 8099
    host.check_output(f"systemd-run --quiet --collect --unit=probe python3 -m http.server {open_port}")
    try:
        host.check_output(
            f"timeout 20 sh -c 'until ss -Hltn sport = :{open_port} | grep -q LISTEN; do sleep 0.1; done'"
        )
        listening = {port for _address, port, _programs in listeners(host, "t")}
        ports = sorted(listening | public_ports(server) | {110, 143, 995, 5432, 6379})
        assert open_port in listening
        with ThreadPoolExecutor(len(ports)) as pool:
            reached = {port for port, open_ in zip(ports, pool.map(answers, ports), strict=True) if open_}
    finally:
        host.check_output("systemctl stop probe.service")
    assert reached == public_ports(server)


def test_postgresql_has_no_tcp_and_lets_no_stranger_in(host: Any) -> None:
    assert host.check_output("runuser -u postgres -- psql -Atc 'SHOW listen_addresses'") == ""
    stranger = host.run("runuser -u nobody -- psql -Atc 'SELECT 1' mailwright")
    assert (stranger.rc, stranger.stdout) == (2, "")


def test_redis_has_no_tcp_and_lets_no_stranger_in(host: Any) -> None:
    redis = "redis-cli -s /run/redis/redis-server.sock"
    assert host.check_output(f"{redis} CONFIG GET port").split() == ["port", "0"]
    assert "Permission denied" in host.run(f"runuser -u nobody -- {redis} PING").stderr


def test_rspamd_controller_asks_for_its_password(host: Any) -> None:
    program = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:11334/stat')"
    answer = host.run(f'python3 -c "{program}"')
    assert "HTTP Error 401" in answer.stderr


@pytest.mark.parametrize("port", [*TLS_PORTS, 995])
def test_tls_names_the_host_and_is_1_2_or_newer(server: Server, port: int) -> None:
    if port == 995 and not server.feature("pop3"):
        pytest.skip("no POP3 here")
    with server.tls(port, server.trust()) as connection:
        assert connection.version() in ("TLSv1.2", "TLSv1.3")
    # OpenSSL itself would not offer the old versions at its usual security level: then the server were not asked
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError) as error:
        server.tls(port, old)
    assert error.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION"


@pytest.mark.parametrize("port", [25, 587])
def test_no_password_is_asked_for_before_tls(server: Server, port: int) -> None:
    with socket.create_connection((server.address, port), 30) as connection:
        read_reply(connection, b"220 ")
        connection.sendall(b"EHLO client.example\r\n")
        text = read_reply(connection, b"250 ")
    assert b"STARTTLS" in text
    assert b"AUTH" not in text


def test_secrets_and_keys_are_closed(server: Server, host: Any) -> None:
    tls = f"/etc/mailwright/tls/{server.hostname}"
    directories = {
        "/etc/mailwright/secrets": ("root", "root", 0o711),
        tls: ("root", "root", 0o750),
        "/var/lib/mailwright/config": ("root", "root", 0o700),
        "/var/lib/mailwright/dkim": ("root", "_rspamd", 0o750),
        "/var/vmail": ("vmail", "vmail", 0o750),
    }
    found = {path: (f.user, f.group, f.mode) for path in directories for f in [host.file(path)]}
    assert found == directories
    listing = host.check_output(
        f"find -L /etc/mailwright/secrets {tls}/live/privkey.pem /var/lib/mailwright/dkim /etc/postfix/sql"
        " -type f -printf '%p %u %g %m\\n'"
    )
    files = {path: (user, group, int(mode, 8)) for path, user, group, mode in map(str.split, listing.splitlines())}
    assert files[f"{tls}/live/privkey.pem"] == ("root", "root", 0o640)
    assert files["/etc/mailwright/secrets/directory.key"] == ("root", "root", 0o600)
    assert files["/etc/mailwright/secrets/rspamd-controller"] == ("root", "root", 0o600)
    assert files["/etc/mailwright/secrets/roundcube-des-key"] == ("root", "www-data", 0o640)
    keys = [path for path in files if path.endswith(".key") and path.startswith("/var/lib/mailwright/dkim/")]
    assert {path.split("/")[5] for path in keys} == set(domains(server))
    assert {files[path] for path in keys} == {("root", "_rspamd", 0o640)}
    assert {files[path] for path in files if path.startswith("/etc/postfix/sql/")} == {("root", "postfix", 0o640)}
    assert {path: values for path, values in files.items() if values[0] != "root" or values[2] & 0o037} == {}


def domains(server: Server) -> list[str]:
    lists = [value for key, value in server.variables.items() if key.split("__")[0] == "mail_domains"]
    return [domain["name"].encode("idna").decode() for found in lists for domain in found]


def test_web_says_hsts_and_no_version(server: Server) -> None:
    status, headers, page = server.get("/")
    assert status == 200
    assert 'name="_pass"' in page
    assert int(headers["strict-transport-security"].removeprefix("max-age=").split(";")[0]) >= 31536000
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["server"] == "nginx"
    assert "x-powered-by" not in headers
    assert re.search(r'"rcversion":\d|Roundcube Webmail \d', page) is None


@pytest.mark.parametrize(
    "path",
    ["/installer/", "/installer", "/installer/index.php", "/config/config.inc.php", "/composer.json", "/logs/errors"],
)
def test_web_serves_nothing_but_the_webmail(server: Server, path: str) -> None:
    assert server.get(path)[0] == 404


def test_plain_http_only_leads_to_https(server: Server) -> None:
    with socket.create_connection((server.address, 80), 30) as connection:
        connection.sendall(f"GET /x HTTP/1.1\r\nHost: {server.hostname}\r\nConnection: close\r\n\r\n".encode())
        answer = connection.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.1 301 ")
    assert f"Location: https://{server.hostname}/x\r\n" in answer
    assert "Server: nginx\r\n" in answer


def test_web_answers_to_no_other_name(server: Server) -> None:
    anything = ssl.create_default_context()
    anything.check_hostname, anything.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        server.tls(443, anything, name="somebody.example")


def test_the_journal_is_bounded(host: Any) -> None:
    said = host.check_output("journalctl --boot --identifier=systemd-journald --output=cat --no-pager")
    assert re.findall(r"System Journal \(.+\) is .+, max ([^,]+),", said)[-1] == "1G"


def test_the_host_asks_its_own_resolver(host: Any) -> None:
    names = [line.split() for line in host.file("/etc/resolv.conf").content_string.splitlines()]
    assert [words[1] for words in names if words and words[0] == "nameserver"] == ["127.0.0.1"]
