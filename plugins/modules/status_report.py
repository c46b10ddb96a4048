#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: status_report
short_description: Print what the probes of all hosts found
version_added: "0.1.0"
author: mailwright contributors (@mailwright)
description:
  - Prints one report on all hosts from what M(mailwright.server.status) returned for each.
  - A host that could not be reached, or on which the probes did not run, is reported as not healthy.
  - It runs on the controller and needs no connection; run it once, with C(run_once).
options:
  hosts:
    description: What M(mailwright.server.status) registered, by inventory name; failed and unreachable results too.
    type: dict
    required: true
  format:
    description: Whether to print V(text) for people, or one line that is a V(json) document.
    type: str
    choices: [text, json]
    default: text
  path:
    description: A file on the controller to which the JSON document is written too, with mode 0600.
    type: path
  verbose:
    description: Whether to print a line for each thing that is well, rather than one for its group.
    type: bool
    default: false
attributes:
  check_mode:
    description: Can run in check mode and does the same as without it.
    support: full
  diff_mode:
    description: Returns what has changed, or would change, when in diff mode.
    support: none
    details: Nothing on the hosts is changed.
  action:
    description: Runs on the controller.
    support: full
"""

EXAMPLES = r"""
- name: Report
  mailwright.server.status_report:
    hosts: >-
      {{ dict(ansible_play_hosts_all | zip(ansible_play_hosts_all | map('extract', hostvars, 'status_result'))) }}
    path: /var/lib/monitoring/mail.json
  run_once: true
  register: status_reported
"""

RETURN = r"""
status:
  description: The gravest status of all hosts, V(ok), V(warn) or V(fail).
  returned: success
  type: str
  sample: warn
unhealthy:
  description: Inventory names of the hosts that are not healthy.
  returned: success
  type: list
  elements: str
  sample: []
"""
