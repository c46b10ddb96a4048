# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The variables a user writes: one table that drives both validation and the reference.

``OPTIONS`` has the shape of an Ansible argument specification's ``options``, so it can be written to a role's
``meta/argument_specs.yml`` as it is. What a type cannot say (an address, a size, a hash) is checked in ``build``.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.sending.warmup import SCHEDULE

Options = dict[str, dict[str, Any]]

MAILBOX_OPTIONS: Options = {
    "name": {
        "type": "str",
        "required": True,
        "description": [
            "The local part, or the full address, which must then be in this domain.",
            "Letters, digits, C(.), C(_) and C(-); capital letters are made small.",
        ],
    },
    "display_name": {"type": "str", "default": "", "description": "The person's or the department's name."},
    "password": {
        "type": "str",
        "no_log": True,
        "description": [
            "The password itself, which belongs in a vault; it is hashed on the host.",
            "Exactly one of O(password) and O(password_hash) is required.",
        ],
    },
    "password_hash": {
        "type": "str",
        "no_log": True,
        "description": [
            "The password's hash: C({ARGON2ID}), C({ARGON2I}), C({BLF-CRYPT}) or C({SHA512-CRYPT}) and what follows.",
            "A bare C($argon2id$), C($argon2i$), C($2y$) or C($6$) hash gets its prefix.",
        ],
    },
    "quota": {
        "type": "raw",
        "description": "How much mail fits, such as V(2G); V(0) is unlimited. The domain's O(quota) when not set.",
    },
    "enabled": {
        "type": "bool",
        "default": True,
        "description": "Whether the mailbox may be used. A mailbox that is switched off keeps its mail.",
    },
    "send_as": {
        "type": "list",
        "elements": "str",
        "default": [],
        "description": "Further addresses, of domains hosted here, that this mailbox may send as.",
    },
}

ALIAS_OPTIONS: Options = {
    "name": {
        "type": "str",
        "required": True,
        "description": "The local part, or the full address, which must then be in this domain.",
    },
    "to": {
        "type": "list",
        "elements": "str",
        "required": True,
        "description": "Where the mail goes: addresses anywhere; a bare local part means this domain.",
    },
}

BIMI_OPTIONS: Options = {
    "logo_url": {
        "type": "str",
        "required": True,
        "description": "The HTTPS URL of the logo, in the format SVG Tiny Portable/Secure.",
    },
    "authority_url": {
        "type": "str",
        "description": "The HTTPS URL of the mark certificate (PEM), which most mailbox providers ask for.",
    },
}

DOMAIN_OPTIONS: Options = {
    "name": {
        "type": "str",
        "required": True,
        "description": "The domain's name. An internationalised name is turned into its C(xn--) form.",
    },
    "enabled": {
        "type": "bool",
        "default": True,
        "description": "Whether mail is accepted for the domain. A domain that is switched off keeps its mail.",
    },
    "quota": {
        "type": "raw",
        "description": "The default quota of the domain's mailboxes. O(mail_quota) when not set.",
    },
    "mailboxes": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": MAILBOX_OPTIONS,
        "description": "The domain's mailboxes.",
    },
    "aliases": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": ALIAS_OPTIONS,
        "description": "Addresses of the domain that only pass mail on.",
    },
    "catch_all": {
        "type": "list",
        "elements": "str",
        "default": [],
        "description": "Where mail to addresses goes that do not exist in the domain.",
    },
    "delegated": {
        "type": "bool",
        "default": False,
        "description": [
            "The domain's zone is somebody else's, who leads the names of records that change here by CNAME.",
            "They are published below O(mail_dns.delegation). DKIM keys then have selectors that are known ahead.",
        ],
    },
    "mta_sts": {
        "type": "str",
        "default": "none",
        "choices": ["none", "testing", "enforce"],
        "description": [
            "The policy that other servers are given for mail to the domain (RFC 8461).",
            "With V(testing) they report what would fail, with V(enforce) they send by verified TLS only.",
        ],
    },
    "dmarc": {
        "type": "str",
        "default": "quarantine",
        "choices": ["none", "quarantine", "reject"],
        "description": "What receivers are asked to do with mail that only pretends to be from the domain (RFC 7489).",
    },
    "bimi": {
        "type": "dict",
        "options": BIMI_OPTIONS,
        "description": [
            "The logo that mailbox providers may show beside the domain's mail (BIMI).",
            "Not with O(mail_domains[].dmarc=none).",
        ],
    },
}

FEATURE_OPTIONS: Options = {
    "clamav": {"type": "bool", "default": True, "description": "Scan mail for viruses (about 1.5 GB of memory)."},
    "webmail": {"type": "bool", "default": True, "description": "Offer webmail with Roundcube."},
    "pop3": {"type": "bool", "default": True, "description": "Offer POP3 beside IMAP."},
    "fulltext": {"type": "bool", "default": True, "description": "Keep an index for full-text search."},
    "autoconfig": {
        "type": "bool",
        "default": True,
        "description": "Answer mail programs that ask for their settings at autoconfig. and autodiscover.<domain>.",
    },
    "mta_sts_outbound": {
        "type": "bool",
        "default": True,
        "description": "Keep to the MTA-STS policies of the domains that mail is sent to.",
    },
    "dmarc_reports": {
        "type": "bool",
        "default": True,
        "description": "Tell the domains that mail came from, once a day, how it fared by their DMARC policy.",
    },
    "tls_reports": {
        "type": "bool",
        "default": True,
        "description": "Tell the domains that mail went to, once a day, how TLS with their servers went (RFC 8460).",
    },
    "mail_crypt": {
        "type": "bool",
        "default": False,
        "description": "Encrypt messages where they are stored, with a key of the host that must not be lost.",
    },
    "metrics": {
        "type": "bool",
        "default": False,
        "description": "Offer figures of all services to a Prometheus elsewhere, at C(https://<mail_hostname>/metrics/).",
    },
    "prometheus": {
        "type": "bool",
        "default": False,
        "description": "Run a Prometheus on the host itself, with the alert rules. Needs O(mail_features.metrics).",
    },
}

ACME_DNS_OPTIONS: Options = {
    "server": {
        "type": "str",
        "required": True,
        "description": "The IP address of the DNS server that takes updates (RFC 2136) of the zone.",
    },
    "key_name": {
        "type": "str",
        "required": True,
        "description": "The name of the TSIG key, which should be allowed to change C(_acme-challenge) names alone.",
    },
    "key_secret": {
        "type": "str",
        "required": True,
        "no_log": True,
        "description": "The TSIG key's secret in base64, which belongs in a vault.",
    },
    "key_algorithm": {
        "type": "str",
        "default": "hmac-sha256",
        "description": "V(hmac-sha256), V(hmac-sha384) or V(hmac-sha512).",
    },
}

ACME_OPTIONS: Options = {
    "directory": {
        "type": "str",
        "default": "https://acme-v02.api.letsencrypt.org/directory",
        "description": "The URL of the ACME server's directory. By default that of Let's Encrypt.",
    },
    "email": {
        "type": "str",
        "description": "Whom the ACME server may write to; used when the account is made. O(mail_admin) when not set.",
    },
    "challenge": {
        "type": "str",
        "default": "http-01",
        "description": [
            "How the names are proved: V(http-01) by a file on port 80 of this host, V(dns-01) by a DNS record.",
        ],
    },
    "key_type": {
        "type": "str",
        "default": "rsa",
        "description": [
            "V(rsa), 2048 bits, which every mail server can verify, or V(ecdsa), P-256, which some old ones cannot.",
            "A TLSA record C(3 1 1) fits either.",
        ],
    },
    "ca_file": {
        "type": "path",
        "description": [
            "A file on the controller with the certificate authority of the ACME server's own HTTPS (PEM).",
            "Only for a private ACME server.",
        ],
    },
    "caa": {
        "type": "str",
        "description": [
            "The name by which the ACME server calls itself in CAA records, such as V(letsencrypt.org).",
            "Publishes a CAA record: only it, and there only this host's account, may issue for the host (RFC 8657).",
        ],
    },
    "dns": {
        "type": "dict",
        "options": ACME_DNS_OPTIONS,
        "description": "How to change the DNS, with V(dns-01).",
    },
}

TLS_OPTIONS: Options = {
    "certificate_file": {
        "type": "path",
        "description": "A file on the controller with the certificate and its chain (PEM).",
    },
    "key_file": {"type": "path", "description": "A file on the controller with the certificate's key (PEM)."},
    "acme": {
        "type": "dict",
        "options": ACME_OPTIONS,
        "description": [
            "Get the certificate from an ACME server, such as Let's Encrypt, and accept its terms of service.",
            "C({}) does it with the defaults. Not beside O(mail_tls.certificate_file).",
        ],
    },
    "dane": {
        "type": "bool",
        "default": False,
        "description": [
            "Publish TLSA records, by which other servers verify the certificate's key (RFC 7672).",
            "Needs DNSSEC: nothing is published for a zone that does not validate.",
        ],
    },
}

DNS_OPTIONS: Options = {
    "providers": {
        "type": "raw",
        "default": {},
        "description": [
            "Where zones are hosted: a name of your choice for each, with its C(type) and the settings of that type.",
            "M(mailwright.server.dns_records#module) lists types and settings. Secrets among them belong in a vault.",
        ],
    },
    "zones": {
        "type": "raw",
        "default": {},
        "description": [
            "The zones to publish into, each with the name of its provider. Nothing is published when there are none.",
            "A name such as C(_domainkey.example.org) can be a zone of its own, delegated by the owner of the rest.",
            "Keep a zone listed until the records of its last domain are removed.",
        ],
    },
    "delegation": {
        "type": "str",
        "description": [
            "A name in one of the zones. Records of domains with O(mail_domains[].delegated) are published below it.",
            "Their owners' CNAMEs lead there: do not change it while there are any.",
        ],
    },
    "ledger": {
        "type": "path",
        "description": [
            "A file on the controller that remembers which records are ours; keep it with the inventory.",
            "C(dns-ledger.json) in the inventory's directory when not set.",
        ],
    },
    "resolvers": {
        "type": "list",
        "elements": "str",
        "default": [],
        "description": "Resolvers by which the zones' name servers are found. The controller's own when not set.",
    },
    "parked_domains": {
        "type": "list",
        "elements": "str",
        "default": [],
        "description": [
            "Names that neither send nor receive mail, such as a domain that only has a web site.",
            "They get records that say so, and others refuse mail that claims to come from them.",
        ],
    },
}

BACKUP_KEEP_OPTIONS: Options = {
    "daily": {"type": "raw", "default": 7, "description": "One of each of so many days."},
    "weekly": {"type": "raw", "default": 5, "description": "One of each of so many weeks."},
    "monthly": {"type": "raw", "default": 12, "description": "One of each of so many months."},
}

BACKUP_CHECK_OPTIONS: Options = {
    "schedule": {"type": "str", "default": "Sun 05:00", "description": "When, as systemd.time(7) writes it."},
    "percent": {
        "type": "raw",
        "default": 5,
        "description": "How much of the data is read back each time, chosen at random; V(0) to V(100).",
    },
}

BACKUP_SFTP_OPTIONS: Options = {
    "private_key": {
        "type": "str",
        "required": True,
        "no_log": True,
        "description": "The private SSH key without passphrase that logs in there, which belongs in a vault.",
    },
    "host_key": {
        "type": "str",
        "required": True,
        "description": "The public key of the server, such as V(ssh-ed25519 AAAA...). Another one is refused.",
    },
}

BACKUP_S3_OPTIONS: Options = {
    "access_key": {"type": "str", "required": True, "description": "The access key's identifier."},
    "secret_key": {
        "type": "str",
        "required": True,
        "no_log": True,
        "description": "The secret access key, which belongs in a vault.",
    },
    "region": {"type": "str", "description": "The region, where the service needs one."},
}

BACKUP_REST_OPTIONS: Options = {
    "user": {"type": "str", "required": True, "description": "The user at the rest-server."},
    "password": {
        "type": "str",
        "required": True,
        "no_log": True,
        "description": "The user's password, which belongs in a vault.",
    },
}

BACKUP_OPTIONS: Options = {
    "repository": {
        "type": "str",
        "required": True,
        "description": [
            "Where the backups go: a directory on the host, V(sftp://user@host:port/directory),",
            "V(s3:https://host/bucket/path) or V(rest:https://host:port/path/). It is made by the first backup.",
        ],
    },
    "password": {
        "type": "str",
        "required": True,
        "no_log": True,
        "description": [
            "Encrypts the repository; 16 characters at least. It belongs in a vault.",
            "Without it nothing can be restored: keep a copy that outlives the host and the controller.",
        ],
    },
    "schedule": {"type": "str", "default": "02:30", "description": "When, as systemd.time(7) writes it."},
    "keep": {
        "type": "dict",
        "default": {},
        "options": BACKUP_KEEP_OPTIONS,
        "description": "How many are kept. With V(0) for all of them nothing is ever removed.",
    },
    "check": {
        "type": "dict",
        "default": {},
        "options": BACKUP_CHECK_OPTIONS,
        "description": "How the repository is checked.",
    },
    "alert_after_hours": {
        "type": "raw",
        "default": 36,
        "description": "The status report fails when the last good backup is older.",
    },
    "ca_file": {
        "type": "path",
        "description": [
            "A file on the controller with the certificate authority of the repository's HTTPS (PEM).",
            "Only for a private one.",
        ],
    },
    "sftp": {"type": "dict", "options": BACKUP_SFTP_OPTIONS, "description": "How to log in by SFTP."},
    "s3": {"type": "dict", "options": BACKUP_S3_OPTIONS, "description": "How to log in at an S3-compatible service."},
    "rest": {"type": "dict", "options": BACKUP_REST_OPTIONS, "description": "How to log in at a rest-server."},
}

API_KEY_OPTIONS: Options = {
    "name": {"type": "str", "required": True, "description": "What the key is called; once for each domain."},
    "domain": {
        "type": "str",
        "required": True,
        "description": "The hosted domain that the key is for. It sees and sends for no other.",
    },
    "scopes": {
        "type": "list",
        "elements": "str",
        "default": [],
        "description": [
            "What the key may do; everything else is denied.",
            "C(emails.write) sends, C(emails.read) sees messages and events; the others are C(api_keys.read),",
            "C(api_keys.write), C(audit.read), C(domains.read), C(inbound.read), C(inbound.write),",
            "C(suppressions.read), C(suppressions.write), C(webhooks.read) and C(webhooks.write).",
        ],
    },
    "key": {
        "type": "str",
        "required": True,
        "no_log": True,
        "description": [
            "The key itself, which belongs in a vault; the host stores its hash.",
            "Make one with M(mailwright.server.api_key#module), or as the page on the sending API shows.",
        ],
    },
    "requests_per_minute": {
        "type": "raw",
        "description": "How many requests the key may make in each minute of the clock. No limit when not set.",
    },
    "recipients_per_hour": {
        "type": "raw",
        "description": "How many recipients the key may write to in each hour of the clock. No limit when not set.",
    },
}

API_TENANT_OPTIONS: Options = {
    "name": {"type": "str", "required": True, "description": "What the tenant is called."},
    "domains": {
        "type": "list",
        "elements": "str",
        "default": [],
        "description": [
            "The hosted domains that are the tenant's. A domain has one tenant at most.",
            "With C(domains.write), its keys can bring more by the API.",
        ],
    },
    "keys": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            **{name: option for name, option in API_KEY_OPTIONS.items() if name != "domain"},
            "name": {"type": "str", "required": True, "description": "What the key is called; once for each tenant."},
        },
        "description": "Keys that reach all of the tenant's domains.",
    },
}

API_OPERATOR_KEY_OPTIONS: Options = {
    "name": {"type": "str", "required": True, "description": "What the key is called."},
    "scopes": {
        "type": "list",
        "elements": "str",
        "default": [],
        "description": "What the key may do: C(tenants.read), C(tenants.write).",
    },
    "key": API_KEY_OPTIONS["key"],
}

API_LIMIT_OPTIONS: Options = {
    "domain": {"type": "str", "required": True, "description": "The hosted domain whose keys are limited together."},
    "requests_per_minute": {
        "type": "raw",
        "description": "How many requests all of its keys may make in each minute of the clock.",
    },
    "recipients_per_hour": {
        "type": "raw",
        "description": "How many recipients all of its keys may write to in each hour of the clock.",
    },
}

API_WARMUP_OPTIONS: Options = {
    "schedule": {
        "type": "raw",
        "default": list(SCHEDULE),
        "description": [
            "Messages a day, day by day, in all and to each receiving provider. After the last one there is no cap.",
            "The default are thirty days from 250 to 50000.",
        ],
    },
    "relay": {
        "type": "str",
        "description": [
            "A mail server that takes what is over an hour's cap, such as V([smtp.example.net]:587), without a log-in.",
            "When not set, it waits.",
        ],
    },
}

API_OPTIONS: Options = {
    "keys": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": API_KEY_OPTIONS,
        "description": "Keys that the inventory owns. Those made by the API or by the module are left alone.",
    },
    "limits": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": API_LIMIT_OPTIONS,
        "description": "Limits of domains. One that is not named has none.",
    },
    "tenants": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": API_TENANT_OPTIONS,
        "description": [
            "Customers with several domains, and keys that reach all of these.",
            "Those made by the API are left alone.",
        ],
    },
    "operator_keys": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": API_OPERATOR_KEY_OPTIONS,
        "description": "Keys of the provider's own programs, which manage tenants and reach no mail.",
    },
    "warmup": {
        "type": "dict",
        "options": API_WARMUP_OPTIONS,
        "description": [
            "Send more from one day to the next, as receivers expect of an address that is new to them.",
            "C({}) does it with the default schedule. Off when not set.",
        ],
    },
}

BLOCKLIST_OPTIONS: Options = {
    "addresses": {
        "type": "list",
        "elements": "str",
        "default": ["zen.spamhaus.org", "bl.spamcop.net", "b.barracudacentral.org"],
        "description": "Zones that list addresses.",
    },
    "domains": {
        "type": "list",
        "elements": "str",
        "default": ["dbl.spamhaus.org"],
        "description": "Zones that list domains.",
    },
}

OPTIONS: Options = {
    "mail_hostname": {
        "type": "str",
        "required": True,
        "description": "The host's full name: what it says in HELO, what its certificate and the webmail are called.",
    },
    "mail_admin": {
        "type": "str",
        "required": True,
        "description": "Who reads the mail to postmaster and abuse of every domain that does not define them.",
    },
    "mail_addresses": {
        "type": "list",
        "elements": "str",
        "description": "The host's public IPv4 and IPv6 addresses. Found on the host when not set.",
    },
    "mail_domains": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": DOMAIN_OPTIONS,
        "description": [
            "The domains that are hosted here, with their mailboxes and aliases.",
            "Every variable whose name begins with C(mail_domains__) is such a list too and is added to it.",
        ],
    },
    "mail_quota": {
        "type": "raw",
        "default": "1G",
        "description": "The quota of a mailbox when neither it nor its domain says one; V(0) is unlimited.",
    },
    "mail_features": {
        "type": "dict",
        "default": {},
        "options": FEATURE_OPTIONS,
        "description": "What is switched on. What is not named keeps its default.",
    },
    "mail_tls": {
        "type": "dict",
        "default": {},
        "options": TLS_OPTIONS,
        "description": "The certificate: both files, or O(mail_tls.acme). Self-signed when not set.",
    },
    "mail_dns": {
        "type": "dict",
        "default": {},
        "options": DNS_OPTIONS,
        "description": "Where the DNS records are published. By hand when not set.",
    },
    "mail_api": {
        "type": "dict",
        "options": API_OPTIONS,
        "description": [
            "Offer the sending API at C(https://<mail_hostname>/api/v1). C({}) does it without a key.",
            "Nothing of it is installed when not set.",
        ],
    },
    "mail_backup": {
        "type": "dict",
        "options": BACKUP_OPTIONS,
        "description": "Encrypted backups of mail, directory, keys and what was learnt. None when not set.",
    },
    "mail_blocklists": {
        "type": "dict",
        "options": BLOCKLIST_OPTIONS,
        "description": [
            "Ask DNS blocklists for the host's addresses and the enabled domains, hourly and in the status report.",
            "C({}) does it with the default lists. None is asked when not set.",
        ],
    },
}

DOMAINS_PREFIX = "mail_domains__"
