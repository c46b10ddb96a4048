# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter that gives the model's DNS records as the module dns_records takes them."""

from __future__ import annotations

DOCUMENTATION = r"""
name: dns_record_sets
short_description: DNS record sets of a mail host and its domains
version_added: "0.2.0"
author: mailwright contributors (@mailwright)
description:
  - Derives the same records as P(mailwright.server.dns_zone#filter), as a list for
    O(mailwright.server.dns_records#module:records).
positional: dkim_keys, dane, account
options:
  _input:
    description: The normalised model C(mail_model).
    type: dict
    required: true
  dkim_keys:
    description:
      - What RV(mailwright.server.dkim_rotation#module:keys) returned.
      - A domain without a key gets no DKIM record.
    type: dict
    required: true
  dane:
    description:
      - What M(mailwright.server.dane) returned. Required where the model asks for TLSA records.
    type: dict
    default: {}
  account:
    description:
      - What M(mailwright.server.acme_account) returned. Required where the model asks for a CAA record.
    type: dict
    default: {}
"""

EXAMPLES = r"""
# In Jinja, dkim.keys is the method of a dictionary: write dkim['keys'].
- name: Show the record sets to publish
  ansible.builtin.debug:
    msg: "{{ mail_model | mailwright.server.dns_record_sets(dkim['keys']) }}"
"""

RETURN = r"""
_value:
  description: Record sets, each with C(name), C(type), C(ttl) in seconds and C(values).
  type: list
  elements: dict
  sample: [{"name": "acme.test.", "type": "MX", "ttl": 3600, "values": ["10 mx1.acme.test."]}]
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.mailwright.server.plugins.module_utils.dns.records import model_records


def dns_record_sets(
    model: Mapping[str, Any],
    dkim_keys: Mapping[str, Sequence[Mapping[str, Any]]],
    dane: Mapping[str, Any] | None = None,
    account: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """List the records of a normalised model. Raises AnsibleFilterError for input that is not one."""
    try:
        return [
            asdict(rrset) | {"values": list(rrset.values)}
            for rrset in model_records(model, dkim_keys, dane or {}, account or {})
        ]
    except KeyError as error:
        raise AnsibleFilterError(f"dns_record_sets: the model or another input lacks {error}") from error
    except ValueError as error:
        raise AnsibleFilterError(f"dns_record_sets: {error}") from error


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Filters by name."""
        return {"dns_record_sets": dns_record_sets}
