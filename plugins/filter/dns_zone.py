# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter that writes the model's DNS records as master-file lines."""

from __future__ import annotations

DOCUMENTATION = r"""
name: dns_zone
short_description: DNS records of a mail host and its domains as zone file lines
version_added: "0.1.0"
author: mailwright contributors (@mailwright)
description:
  - Derives the records from the normalised model and the DKIM keys.
  - Writes them as RFC 1035 master-file lines with absolute names, sorted.
  - The records are those of the host (A, AAAA, SPF, TLSA, CAA) and of every enabled domain
    (MX, SPF, DKIM, DMARC, MTA-STS, TLS reports, SRV for the mail services and names for mail programs' settings).
positional: dkim_keys, dane, account
options:
  _input:
    description: The normalised model C(mail_model).
    type: dict
    required: true
  dkim_keys:
    description:
      - What RV(mailwright.server.dkim_rotation#module:keys) returned.
      - Every key listed gets its record, whatever its state; keys of a domain that the model has not, too.
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
- name: Show the records to publish
  ansible.builtin.debug:
    msg: "{{ mail_model | mailwright.server.dns_zone(dkim['keys']) }}"
"""

RETURN = r"""
_value:
  description: Zone file lines, each ended by a line feed.
  type: str
  sample: "acme.test. 3600 IN MX 10 mx1.acme.test.\n"
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.mailwright.server.plugins.module_utils.dns.records import model_records
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import zone_text


def dns_zone(
    model: Mapping[str, Any],
    dkim_keys: Mapping[str, Sequence[Mapping[str, Any]]],
    dane: Mapping[str, Any] | None = None,
    account: Mapping[str, Any] | None = None,
) -> str:
    """Write the records of a normalised model. Raises AnsibleFilterError for input that is not one."""
    try:
        return zone_text(model_records(model, dkim_keys, dane or {}, account or {}))
    except KeyError as error:
        raise AnsibleFilterError(f"dns_zone: the model or another input lacks {error}") from error
    except ValueError as error:
        raise AnsibleFilterError(f"dns_zone: {error}") from error


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Filters by name."""
        return {"dns_zone": dns_zone}
