# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The MTA-STS policy and its id, in the form that RFC 8461 gives them."""

from __future__ import annotations

import itertools
import re

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.mailwright.server.plugins.filter.mta_sts_policy import FilterModule
from ansible_collections.mailwright.server.plugins.module_utils.dns.mta_sts import policy_id, policy_text, record_text

HOST = "mx1.acme.test"
# RFC 8461 section 3.1, sts-text-record with this writer's one space and its final semicolon
RECORD = re.compile(r"v=STSv1; id=[A-Za-z0-9]{1,32};")


def test_policy_of_a_host() -> None:
    assert policy_text("testing", HOST) == "version: STSv1\r\nmode: testing\r\nmx: mx1.acme.test\r\nmax_age: 604800\r\n"


def test_another_policy_has_another_id() -> None:
    policies = [policy_text(*arguments) for arguments in
                itertools.product(("testing", "enforce"), (HOST, "mx2.acme.test"), (0, 86400))]  # fmt: skip
    assert len({policy_id(policy) for policy in policies}) == len(policies)
    assert all(RECORD.fullmatch(record_text(policy)) for policy in policies)


def test_the_id_does_not_change_by_itself() -> None:
    # senders fetch the policy again when it does
    assert policy_id(policy_text("enforce", HOST)) == "f9bb39e7baee1deb8baf03e917144e75"


def test_what_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ValueError, match=r"mode: 'none'.*hostname: 'a\\r\\nmx: b'.*max_age: -1"):
        policy_text("none", "a\r\nmx: b", -1)
    mta_sts_policy = FilterModule().filters()["mta_sts_policy"]
    assert mta_sts_policy(HOST, "enforce") == policy_text("enforce", HOST)
    with pytest.raises(AnsibleFilterError, match="mode: 'on'"):
        mta_sts_policy(HOST, "on")
