# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sending API's schema: forward-only migrations, as the directory has them, and its database roles (pure).

A migration that has been released is never edited: the next change is a new entry at the end of MIGRATIONS.
"""

from __future__ import annotations

from ..directory.schema import Migration
from . import (
    schema_directory,
    schema_domains,
    schema_hooks,
    schema_operators,
    schema_pace,
    schema_reports,
    schema_resources,
    schema_tenants,
)

NAME = "api"
# The web service, which sees one domain at a time; the dispatcher and what posts to webhooks, which see all. None has a
# password.
SERVICE = "mailwright_api"
DISPATCHER = "mailwright_dispatch"
POSTER = "mailwright_webhooks"

_FIRST = r"""
CREATE SCHEMA api;

CREATE TABLE api.schema_version (
    version integer PRIMARY KEY,
    title text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- domain has no foreign key: a domain that leaves the directory takes its keys' power with it (api.find_key), not its
-- history.
CREATE TABLE api.key (
    id text PRIMARY KEY,
    domain text NOT NULL,
    name text NOT NULL,
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    scopes text[] NOT NULL,
    owner text NOT NULL CHECK (owner IN ('inventory', 'api')),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (domain, name)
);

CREATE TABLE api.message (
    id uuid PRIMARY KEY,
    domain text NOT NULL,
    key_id text NOT NULL,
    message_id text NOT NULL,
    sender text NOT NULL,
    subject text NOT NULL,
    content bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX message_domain ON api.message (domain, id);

-- What is to be sent is each row with status queued; sending is under lease.
CREATE TABLE api.recipient (
    id uuid PRIMARY KEY,
    message uuid NOT NULL REFERENCES api.message ON DELETE CASCADE,
    domain text NOT NULL,
    address text NOT NULL,
    token text NOT NULL UNIQUE,
    status text NOT NULL CHECK (status IN ('queued', 'sending', 'handed_over', 'deferred', 'delivered', 'bounced',
                                           'expired', 'rejected', 'suppressed')),
    attempts integer NOT NULL DEFAULT 0,
    not_before timestamptz NOT NULL DEFAULT now(),
    leased_until timestamptz,
    queue_id text,
    changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX recipient_message ON api.recipient (message);
CREATE INDEX recipient_queued ON api.recipient (not_before) WHERE status = 'queued';
CREATE INDEX recipient_sending ON api.recipient (leased_until) WHERE status = 'sending';
CREATE INDEX recipient_queue_id ON api.recipient (queue_id) WHERE queue_id IS NOT NULL;

-- source tells apart what may happen to a recipient more than once: a place in the log, a final address, or ''.
CREATE TABLE api.event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    domain text NOT NULL,
    message uuid NOT NULL,
    recipient uuid NOT NULL REFERENCES api.recipient ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('accepted', 'suppressed', 'handed_over', 'rejected', 'delivered', 'deferred',
                                       'bounced', 'expired')),
    at timestamptz NOT NULL DEFAULT now(),
    address text NOT NULL,
    queue_id text,
    relay text NOT NULL DEFAULT '',
    code text NOT NULL DEFAULT '',
    detail text NOT NULL DEFAULT '',
    source text NOT NULL DEFAULT '',
    UNIQUE (recipient, kind, source)
);
CREATE INDEX event_domain ON api.event (domain, id);
CREATE INDEX event_message ON api.event (message, id);

-- address in small letters
CREATE TABLE api.suppression (
    domain text NOT NULL,
    address text NOT NULL CHECK (address = lower(address)),
    reason text NOT NULL CHECK (reason IN ('invalid_recipient', 'bad_domain', 'inactive_mailbox', 'expired', 'manual')),
    detail text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (domain, address)
);

CREATE TABLE api.idempotency (
    domain text NOT NULL,
    key text NOT NULL,
    request bytea NOT NULL,
    response jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (domain, key)
);
CREATE INDEX idempotency_age ON api.idempotency (created_at);

-- How far Postfix's log has been read: one row.
CREATE TABLE api.log_position (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    cursor text NOT NULL,
    read_at timestamptz NOT NULL
);

-- Whose key it is, before any domain is known. Only of domains that are hosted and switched on.
CREATE FUNCTION api.find_key(id text) RETURNS TABLE (domain text, scopes text[], hash bytea)
LANGUAGE sql STABLE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT key.domain, key.scopes, key.hash
      FROM api.key AS key JOIN directory.domain AS hosted ON hosted.name = key.domain
     WHERE key.id = find_key.id AND hosted.enabled
$body$;
REVOKE ALL ON FUNCTION api.find_key(text) FROM PUBLIC;

-- For the metrics: the service sees no other domain's rows, and needs none to count.
CREATE FUNCTION api.counts() RETURNS TABLE (status text, count bigint)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT recipient.status, count(*) FROM api.recipient AS recipient
     WHERE recipient.status IN ('queued', 'sending') GROUP BY recipient.status
$body$;
REVOKE ALL ON FUNCTION api.counts() FROM PUBLIC;

GRANT USAGE ON SCHEMA api TO mailwright_api, mailwright_dispatch;
GRANT EXECUTE ON FUNCTION api.find_key(text), api.counts() TO mailwright_api;
GRANT SELECT, INSERT, DELETE ON api.key, api.suppression, api.idempotency TO mailwright_api;
GRANT UPDATE (name, scopes) ON api.key TO mailwright_api;
GRANT UPDATE (response) ON api.idempotency TO mailwright_api;
GRANT SELECT, INSERT ON api.message, api.recipient, api.event TO mailwright_api;
GRANT SELECT ON api.log_position TO mailwright_api;

GRANT SELECT, DELETE ON api.message, api.idempotency TO mailwright_dispatch;
GRANT SELECT, UPDATE, DELETE ON api.recipient TO mailwright_dispatch;
GRANT SELECT, INSERT, DELETE ON api.event TO mailwright_dispatch;
GRANT SELECT, INSERT ON api.suppression TO mailwright_dispatch;
GRANT SELECT, INSERT, UPDATE ON api.log_position TO mailwright_dispatch;

-- The service names the key's domain at the start of each transaction; without it no row is there.
DO $body$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['key', 'message', 'recipient', 'event', 'suppression', 'idempotency'] LOOP
        EXECUTE format('ALTER TABLE api.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY one_domain ON api.%I TO mailwright_api '
                       'USING (domain = current_setting(''api.domain'', true)) '
                       'WITH CHECK (domain = current_setting(''api.domain'', true))', name);
        EXECUTE format('CREATE POLICY all_domains ON api.%I TO mailwright_dispatch USING (true) WITH CHECK (true)',
                       name);
    END LOOP;
END
$body$;
"""

MIGRATIONS: tuple[Migration, ...] = (
    Migration(1, "sending API: keys, messages, recipients, events", _FIRST),
    *schema_hooks.MIGRATIONS,
    *schema_resources.MIGRATIONS,
    *schema_pace.MIGRATIONS,
    *schema_directory.MIGRATIONS,
    *schema_tenants.MIGRATIONS,
    *schema_operators.MIGRATIONS,
    *schema_domains.MIGRATIONS,
    *schema_reports.MIGRATIONS,
)
