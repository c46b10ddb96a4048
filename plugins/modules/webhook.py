#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: webhook
short_description: Make, change or remove a webhook of the sending API
version_added: "0.1.0"
author: mailwright contributors (@mailwright)
description:
  - Makes a webhook for a hosted domain. Its signing secret is in the result once, when it is made.
  - One that exists keeps its secret; its URL and events are brought in line. One that was switched off stays so.
  - Webhooks that the API made are found by their name and are changed or removed alike.
  - Connects by Unix socket and peer authentication as C(mailwright), so it runs as root.
options:
  name:
    description: What the webhook is called, once for each domain.
    type: str
    required: true
  domain:
    description: The hosted domain whose events are posted.
    type: str
    required: true
  url:
    description: Where to post. Required with O(state=present).
    type: str
  events:
    description: What to post, such as V(email.bounced) and V(inbound.received). Required with O(state=present).
    type: list
    elements: str
  networks:
    description: Networks of your own that the URL may lead to, as in the role's C(api_webhook_networks).
    type: list
    elements: str
    default: []
  state:
    description: Whether the webhook is there.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment: mailwright.server.database
attributes:
  check_mode:
    description: Says what would be done; makes no secret.
    support: full
  diff_mode:
    description: One line for the webhook, without its secret.
    support: full
seealso:
  - module: mailwright.server.api_key
"""

EXAMPLES = r"""
- name: Have bounces posted
  mailwright.server.webhook:
    name: bounces
    domain: acme.test
    url: https://shop.acme.test/hooks/mail
    events: [email.bounced, email.expired]
  register: bounces

- name: Show the signing secret, this once
  ansible.builtin.debug:
    var: bounces.secret
  when: bounces.secret is defined
"""

RETURN = r"""
secret:
  description: The signing secret.
  returned: when it was made
  type: str
  sample: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw0q9n8m7l6k5=
id:
  description: The webhook's id.
  returned: when there is or was a webhook, and not in check mode when it is new
  type: str
  sample: 019ac0de-7f10-7c3a-9a55-2f1d0c9b8a7e
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mailwright.server.plugins.module_utils.directory import cluster, store
from ansible_collections.mailwright.server.plugins.module_utils.sending import ids, keys, schema, webhooks
from ansible_collections.mailwright.server.plugins.module_utils.sending import store as sending_store
from ansible_collections.mailwright.server.plugins.module_utils.sending.webhooks import Row


class RefusedError(Exception):
    """What was asked for may not be done."""


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "domain": {"type": "str", "required": True},
            "url": {"type": "str"},
            "events": {"type": "list", "elements": "str"},
            "networks": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "socket": {"type": "path", "default": "/var/run/postgresql"},
            "dbname": {"type": "str", "default": "mailwright"},
        },
        required_if=[("state", "present", ("url", "events"))],
        supports_check_mode=True,
    )
    params = module.params
    secret = None
    try:
        wanted = desired(params)
        cluster.database_name(params["dbname"])
        with store.connect(params["socket"], params["dbname"], cluster.OWNER) as owner:
            before = present(owner, params["domain"].lower(), keys.check_name(params["name"]))
            if before is not None and wanted is not None:
                wanted = wanted._replace(id=before.id)
            if wanted is not None and before is None:
                if wanted.domain not in sending_store.hosted_domains(owner):
                    raise RefusedError(f"domain: {wanted.domain!a} is not hosted here")
                secret = webhooks.new_secret()
            if wanted != before and not module.check_mode:
                sending_store.write_webhook(owner, before, wanted, secret)
    except (ValueError, store.StoreError, RefusedError) as error:
        module.fail_json(msg=str(error))
    result: dict[str, Any] = {"changed": wanted != before}
    if before is not None:
        result["id"] = before.id
    elif wanted is not None and not module.check_mode:
        result.update(id=wanted.id, secret=secret)
    if module._diff:
        result["diff"] = {
            "before_header": "webhook",
            "after_header": "webhook",
            "before": f"{before}\n" if before is not None and wanted != before else "",
            "after": f"{wanted}\n" if wanted is not None and wanted != before else "",
        }
    module.exit_json(**result)


def desired(params: dict[str, Any]) -> Row | None:
    """The webhook as it is to be, with an id of its own. Raises ValueError, which names the option."""
    if params["state"] == "absent":
        return None
    for option, check in (
        ("name", keys.check_name),
        ("networks", webhooks.parse_networks),
        ("url", lambda url: webhooks.check_url(url, webhooks.parse_networks(params["networks"]))),
        ("events", webhooks.check_events),
    ):
        try:
            check(params[option])
        except ValueError as error:
            raise ValueError(f"{option}: {error}") from error
    events = tuple(webhooks.check_events(params["events"]))
    return Row(str(ids.new_id()), params["domain"].lower(), params["name"], params["url"], events)


def present(owner: Any, domain: str, name: str) -> Row | None:
    """The webhook as it is. Raises RefusedError where there is no sending API."""
    if not store.applied_versions(owner, schema.NAME):
        raise RefusedError("there is no sending API on this host: set mail_api in the inventory and apply it")
    return sending_store.read_webhook(owner, domain, name)


if __name__ == "__main__":
    main()
