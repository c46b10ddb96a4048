# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter that writes the MTA-STS policy of a mail host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: mta_sts_policy
short_description: MTA-STS policy of a mail host
version_added: "0.1.0"
author: mailwright contributors (@mailwright)
description:
  - Writes the policy file that is served at C(/.well-known/mta-sts.txt) (RFC 8461).
  - The C(_mta-sts) record that P(mailwright.server.dns_zone#filter) writes has the id of this very text.
positional: mode
options:
  _input:
    description: The mail host's full name.
    type: str
    required: true
  mode:
    description: What senders do with a connection that does not fit.
    type: str
    choices: [testing, enforce]
    required: true
"""

EXAMPLES = r"""
- name: Show the policy
  ansible.builtin.debug:
    msg: "{{ mail_model.hostname | mailwright.server.mta_sts_policy('enforce') }}"
"""

RETURN = r"""
_value:
  description: The policy, its lines ended by CR LF.
  type: str
  sample: "version: STSv1\r\nmode: enforce\r\nmx: mx1.acme.test\r\nmax_age: 604800\r\n"
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.mailwright.server.plugins.module_utils.dns.mta_sts import policy_text


def mta_sts_policy(hostname: str, mode: str) -> str:
    """Write the policy. Raises AnsibleFilterError for what is no host or mode."""
    try:
        return policy_text(mode, hostname)
    except ValueError as error:
        raise AnsibleFilterError(f"mta_sts_policy: {error}") from error


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Filters by name."""
        return {"mta_sts_policy": mta_sts_policy}
