#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: model
short_description: Check the mail variables and build the model that the roles read
version_added: "0.1.0"
author:
  - mailwright contributors (@mailwright)
description:
  - Reads every variable whose name begins with C(mail_), with templates and vaults resolved, checks all of them
    together, and returns the normalised model.
  - Variables named C(mail_domains__*) are added to C(mail_domains).
  - Every mistake is reported at once, with the path of its key.
  - A variable that begins with C(mail_) and is not known is a mistake.
  - It runs on the controller and needs no connection to the host.
notes:
  - The model holds the passwords that the inventory holds. The result of a run that succeeds is therefore never
    shown, as with C(no_log), while what is registered is complete. Errors hold no secrets and are shown.
  - Do not set C(no_log) on the task, since that hides the errors too. Do set it on every task that handles the model
    as a whole, such as the M(ansible.builtin.set_fact) in the example.
options:
  ignore:
    description: Names of variables that begin with C(mail_) and belong to something else.
    type: list
    elements: str
    default: []
  defaults:
    description: Values for variables that are not set.
    type: dict
    default: {}
    suboptions:
      addresses:
        description:
          - Used when C(mail_addresses) is not set, as found on the host.
          - Empty items, and addresses that cannot be reached from outside, are dropped.
        type: list
        elements: raw
        default: []
attributes:
  check_mode:
    description: Can run in check mode and return the same as without it.
    support: full
  diff_mode:
    description: Returns what has changed, or would change, when in diff mode.
    support: none
    details: Nothing is ever changed.
  action:
    description: Runs on the controller.
    support: full
"""

EXAMPLES = r"""
- name: Check the inventory
  mailwright.server.model:
    defaults:
      addresses:
        - "{{ ansible_facts.default_ipv4.address | default('') }}"
        - "{{ ansible_facts.default_ipv6.address | default('') }}"
  register: mailwright_inventory

- name: Hand the model to the roles
  ansible.builtin.set_fact:
    mail_model: "{{ mailwright_inventory.model }}"
  no_log: true

- name: Check an inventory in which another collection has a variable of its own
  mailwright.server.model:
    ignore: [mail_relay_password]
  register: mailwright_inventory
"""

RETURN = r"""
model:
  description: The normalised model. Lists are sorted and hold nothing twice.
  returned: success
  type: dict
  contains:
    hostname:
      description: The host's full name.
      type: str
    admin:
      description: The administrator's address.
      type: str
    addresses:
      description: The host's addresses.
      type: dict
      contains:
        ipv4:
          description: IPv4 addresses.
          type: list
          elements: str
        ipv6:
          description: IPv6 addresses.
          type: list
          elements: str
    features:
      description: Whether V(clamav), V(webmail), V(pop3) and V(fulltext) are switched on.
      type: dict
    tls:
      description: The C(mode), V(self_signed) or V(files), with C(certificate_file) and C(key_file).
      type: dict
    dns:
      description: >-
        Where records are published: C(providers) with their settings, C(zones) with their provider's name, C(ledger)
        (null: the default) and C(resolvers).
      type: dict
    domains:
      description: The domains, each with C(name) and C(enabled).
      type: list
      elements: dict
    mailboxes:
      description: >-
        The mailboxes, each with C(address), C(domain), C(local_part), C(display_name), C(password), C(password_hash)
        (one of them is null), C(quota_bytes) (V(0) is unlimited) and C(enabled).
      type: list
      elements: dict
    aliases:
      description: >-
        One item with C(address) and C(destination) for every destination. A catch-all has an address such as
        V(@example.org). The abuse and postmaster aliases that no one defined are among them.
      type: list
      elements: dict
    senders:
      description: Who may send as what, each with C(address) and C(login).
      type: list
      elements: dict
errors:
  description: Every mistake in the inventory, each with the path of its key.
  returned: failure
  type: list
  elements: str
  sample:
    - "mail_domains__acme[1].mailboxes[2].quota: '5X' is not a size: write a number with K, M, G or T, such as 2G"
"""
