# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mail programs that ask for their settings, in the words of each, at every name, by verified HTTPS.

The answers are held against the formats that the programs' makers describe; no such program runs here.
"""

from __future__ import annotations

import http.client
import json
import plistlib
import poplib
import smtplib
import socket
import xml.etree.ElementTree as ET
from http.client import HTTPMessage
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ansible_collections.mailwright.server.tests.integration.conftest import Server

HOST = "mx1.acme.test"
DOMAINS = ["acme.test", "globex.test"]
NAMES = [HOST, *(f"{service}.{domain}" for domain in DOMAINS for service in ("autoconfig", "autodiscover"))]
REQUEST_2006 = "http://schemas.microsoft.com/exchange/autodiscover/outlook/requestschema/2006"
RESPONSE_2006 = "http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006"
OUTLOOK_2006A = "http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a"


def ask(
    server: Server, name: str, path: str, body: str | None = None, *, plain: bool = False
) -> tuple[int, HTTPMessage, str]:
    """Status, headers and body; a POST when there is a body to send. The certificate must fit the name."""
    connection = http.client.HTTPConnection(name, timeout=20)
    connection.sock = socket.create_connection((server.address, 80 if plain else 443), 20)
    if not plain:
        connection.sock = server.lab.tls().wrap_socket(connection.sock, server_hostname=name)
    headers = {"Content-Type": "text/xml; charset=utf-8"} if body is not None else {}
    connection.request("GET" if body is None else "POST", path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read().decode()


def texts(element: ET.Element) -> dict[str, str]:
    """The children's names, without their namespace, and texts."""
    return {child.tag.rpartition("}")[2]: child.text or "" for child in element}


# --- Thunderbird ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/mail/config-v1.1.xml", "/.well-known/autoconfig/mail/config-v1.1.xml"])
@pytest.mark.parametrize("name", NAMES)
def test_thunderbirds_document(server: Server, name: str, path: str) -> None:
    status, headers, text = ask(server, name, f"{path}?emailaddress=alice%40acme.test")
    assert (status, headers["Content-Type"]) == (200, "text/xml")
    root = ET.fromstring(text)
    assert (root.tag, root.attrib) == ("clientConfig", {"version": "1.1"})
    provider = root.find("emailProvider")
    assert provider is not None and provider.get("id") == HOST
    assert [child.tag for child in provider][:3] == ["domain", "displayName", "displayShortName"]
    servers = [(child.tag, child.get("type"), texts(child)) for child in list(provider)[3:]]
    common = {"hostname": HOST, "authentication": "password-cleartext", "username": "%EMAILADDRESS%"}
    assert servers == [
        ("incomingServer", "imap", {**common, "port": "993", "socketType": "SSL"}),
        ("incomingServer", "pop3", {**common, "port": "995", "socketType": "SSL"}),
        ("outgoingServer", "smtp", {**common, "port": "465", "socketType": "SSL"}),
        ("outgoingServer", "smtp", {**common, "port": "587", "socketType": "STARTTLS"}),
    ]


def test_thunderbird_without_tls_gets_the_same(server: Server) -> None:
    path = "/mail/config-v1.1.xml?emailaddress=alice%40acme.test"
    status, _headers, text = ask(server, "autoconfig.acme.test", path, plain=True)
    assert (status, text) == (200, ask(server, "autoconfig.acme.test", path)[2])


# --- Outlook --------------------------------------------------------------------------------------------------------


def request(address: str) -> str:
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\r\n<Autodiscover xmlns="{REQUEST_2006}"><Request>'
        f"<EMailAddress>{address}</EMailAddress>"
        f"<AcceptableResponseSchema>{OUTLOOK_2006A}</AcceptableResponseSchema></Request></Autodiscover>"
    )


@pytest.mark.parametrize("path", ["/autodiscover/autodiscover.xml", "/Autodiscover/Autodiscover.xml"])
@pytest.mark.parametrize("name", NAMES)
def test_outlook_is_told_servers_and_log_in(server: Server, name: str, path: str) -> None:
    status, headers, text = ask(server, name, path, request("carol+x@globex.test"))
    assert status == 200 and headers["Content-Type"].startswith("text/xml")
    root = ET.fromstring(text)
    assert root.tag == f"{{{RESPONSE_2006}}}Autodiscover"
    account = root.find(f"{{{OUTLOOK_2006A}}}Response/{{{OUTLOOK_2006A}}}Account")
    assert account is not None
    assert [child.text for child in account[:2]] == ["email", "settings"]
    found = {texts(protocol)["Type"]: texts(protocol) for protocol in account[2:]}
    assert {kind: protocol["Port"] for kind, protocol in found.items()} == {"IMAP": "993", "POP3": "995", "SMTP": "465"}
    for protocol in found.values():
        assert protocol["Server"] == HOST
        assert protocol["LoginName"] == "carol+x@globex.test"
        assert (protocol["SSL"], protocol["SPA"], protocol["AuthRequired"]) == ("on", "off", "on")


@pytest.mark.parametrize(
    "body",
    [
        "",
        "nonsense",
        request(""),
        request("<b>alice@acme.test</b>"),
        request("a&amp;b@acme.test"),
        request("x" * 20000),
    ],
    ids=["empty", "nonsense", "no address", "markup", "entity", "too long"],
)
def test_a_request_that_is_none_gets_an_error(server: Server, body: str) -> None:
    status, _headers, text = ask(server, "autodiscover.acme.test", "/autodiscover/autodiscover.xml", body)
    if len(body) > 16384:
        assert status == 413
        return
    assert status == 200
    error = ET.fromstring(text).find(f"{{{RESPONSE_2006}}}Response/{{{RESPONSE_2006}}}Error")
    assert error is not None and texts(error)["ErrorCode"] == "600"


def test_outlook_without_tls_is_sent_to_the_hosts_own_name(server: Server) -> None:
    path = "/autodiscover/autodiscover.xml"
    status, headers, _text = ask(server, "autodiscover.acme.test", path, plain=True)
    assert (status, headers["Location"]) == (302, f"https://{HOST}{path}")


@pytest.mark.parametrize(
    "path",
    ["/autodiscover/autodiscover.json?Email=alice@acme.test&Protocol=AutodiscoverV1",
     "/autodiscover/autodiscover.json/v1.0/alice@acme.test?Protocol=autodiscoverv1&RedirectCount=1"],
)  # fmt: skip
def test_autodiscover_version_2_leads_to_version_1(server: Server, path: str) -> None:
    status, headers, text = ask(server, "autodiscover.acme.test", path)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    url = f"https://{HOST}/autodiscover/autodiscover.xml"
    assert json.loads(text) == {"Protocol": "AutodiscoverV1", "Url": url}


def test_autodiscover_version_2_knows_no_other_protocol(server: Server) -> None:
    path = "/autodiscover/autodiscover.json?Email=alice@acme.test&Protocol=ActiveSync"
    status, _headers, text = ask(server, "autodiscover.acme.test", path)
    assert (status, json.loads(text)["ErrorCode"]) == (400, "InvalidProtocol")


# --- Apple ----------------------------------------------------------------------------------------------------------


def test_apples_profile(server: Server) -> None:
    status, headers, text = ask(server, "autoconfig.acme.test", "/apple.mobileconfig")
    assert (status, headers["Content-Type"]) == (200, "application/x-apple-aspen-config")
    profile = plistlib.loads(text.encode())
    assert profile["PayloadType"] == "Configuration"
    (account,) = profile["PayloadContent"]
    assert account["PayloadType"] == "com.apple.mail.managed"
    assert account["PayloadUUID"] != profile["PayloadUUID"]
    assert (account["IncomingMailServerHostName"], account["OutgoingMailServerHostName"]) == (HOST, HOST)
    assert (account["IncomingMailServerPortNumber"], account["OutgoingMailServerPortNumber"]) == (993, 465)
    assert account["IncomingMailServerUseSSL"] and account["OutgoingMailServerUseSSL"]


# --- and it is true -------------------------------------------------------------------------------------------------


def test_what_is_said_works(server: Server) -> None:
    context = server.lab.tls()
    context.check_hostname = False
    address, password = "alice@acme.test", server.lab.password
    pop = poplib.POP3_SSL(server.address, 995, timeout=30, context=context)
    pop.user(address)
    assert pop.pass_(password).startswith(b"+OK")
    pop.quit()
    with server.lab.imap(address, server.name) as box:
        assert box.select("INBOX", readonly=True)[0] == "OK"
    with server.lab.submission(address, server.name) as smtp:
        assert smtp.noop()[0] == 250
    with smtplib.SMTP(server.address, 587, "client.example", timeout=30) as smtp:
        smtp.starttls(context=context)
        assert smtp.login(address, password)[0] == 235


@pytest.mark.parametrize("name", ["autoconfig.acme.test", "autodiscover.globex.test"])
def test_nothing_else_is_there(server: Server, name: str) -> None:
    for path in ("/", "/mail/", "/index.php", "/autodiscover/", "/.well-known/mta-sts.txt", "/etc/passwd"):
        assert ask(server, name, path)[0] == 404, path


def test_other_names_get_no_answer(server: Server) -> None:
    for name in ("autoconfig.peer.test", "autoconfig.off.test", "acme.test"):
        with pytest.raises(OSError, match=r"(?i)unrecognized.name"):
            ask(server, name, "/mail/config-v1.1.xml")
