# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""AWS Signature Version 4: AWS's published test suite, and botocore's signer."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.route53 import signature_v4
from botocore.auth import SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

KEY_ID = "AKIDEXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
DATE = "20150830T123600Z"
SIGNED = {"host": "example.amazonaws.com", "x-amz-date": DATE}


@pytest.mark.parametrize(
    ("method", "target", "signature"),
    [
        ("GET", "/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            "GET",
            "/?Param2=value2&Param1=value1",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
    ],
    ids=["get-vanilla", "post-vanilla", "get-vanilla-query-order-key-case"],
)
def test_the_published_suite(method: str, target: str, signature: str) -> None:
    """https://docs.aws.amazon.com/general/latest/gr/signature-v4-test-suite.html."""
    url = "https://example.amazonaws.com" + target
    assert signature_v4(method, url, SIGNED, b"", KEY_ID, SECRET, service="service") == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders=host;x-amz-date, Signature={signature}"
    )


words = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x2FF), min_size=1, max_size=12)


@given(words, st.dictionaries(words, words, max_size=4), st.binary(max_size=40), st.booleans())
def test_botocore_signs_the_same(label: str, query: dict[str, str], body: bytes, session: bool) -> None:
    path = f"/2013-04-01/hostedzone/{quote(label, safe='')}x/rrset"
    url = f"https://route53.amazonaws.com{path}?{urlencode(query, quote_via=quote)}"
    signed = {"host": "route53.amazonaws.com", "x-amz-date": DATE}
    if session:
        signed["x-amz-security-token"] = "session=="
    request = AWSRequest("POST", url, signed, body)
    request.context["timestamp"] = DATE
    signer = SigV4Auth(Credentials(KEY_ID, SECRET), "route53", "us-east-1")
    wanted = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    assert signature_v4("POST", url, signed, body, KEY_ID, SECRET).endswith(f"Signature={wanted}")
