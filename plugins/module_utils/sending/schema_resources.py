# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations 30 to 39 of the sending API's schema: templates, schedules, streams, complaints, statistics (pure)."""

from __future__ import annotations

from ..directory.schema import Migration

_TEMPLATES = r"""
-- active: the version that messages use which name none
CREATE TABLE api.template (
    id uuid PRIMARY KEY,
    domain text NOT NULL,
    name text NOT NULL,
    active integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (domain, name),
    UNIQUE (domain, id)
);

-- A version never changes: a message can be traced to what it was made from.
CREATE TABLE api.template_version (
    template uuid NOT NULL,
    domain text NOT NULL,
    version integer NOT NULL,
    subject text NOT NULL,
    text text,
    html text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (template, version),
    FOREIGN KEY (domain, template) REFERENCES api.template (domain, id) ON DELETE CASCADE,
    CHECK (text IS NOT NULL OR html IS NOT NULL)
);

GRANT SELECT, INSERT, DELETE ON api.template TO mailwright_api;
GRANT UPDATE (name, active) ON api.template TO mailwright_api;
GRANT SELECT, INSERT ON api.template_version TO mailwright_api;

ALTER TABLE api.template ENABLE ROW LEVEL SECURITY;
ALTER TABLE api.template_version ENABLE ROW LEVEL SECURITY;
CREATE POLICY one_domain ON api.template TO mailwright_api
    USING (domain = current_setting('api.domain', true)) WITH CHECK (domain = current_setting('api.domain', true));
CREATE POLICY one_domain ON api.template_version TO mailwright_api
    USING (domain = current_setting('api.domain', true)) WITH CHECK (domain = current_setting('api.domain', true));
"""

_SCHEDULES = r"""
-- send_at: when its sender wanted it sent, if not at once. recipient.not_before is what the dispatcher goes by.
ALTER TABLE api.message ADD COLUMN send_at timestamptz;
-- until then it is tried to hand the message to Postfix, which has a limit of its own
ALTER TABLE api.recipient ADD COLUMN expires_at timestamptz NOT NULL DEFAULT now() + interval '5 days';

ALTER TABLE api.recipient DROP CONSTRAINT recipient_status_check;
ALTER TABLE api.recipient ADD CONSTRAINT recipient_status_check
    CHECK (status IN ('queued', 'sending', 'handed_over', 'deferred', 'delivered', 'bounced', 'expired', 'rejected',
                      'suppressed', 'cancelled'));
ALTER TABLE api.event DROP CONSTRAINT event_kind_check;
ALTER TABLE api.event ADD CONSTRAINT event_kind_check
    CHECK (kind IN ('accepted', 'suppressed', 'handed_over', 'rejected', 'delivered', 'deferred', 'bounced', 'expired',
                    'cancelled', 'rescheduled', 'complained', 'unsubscribed'));

-- The service may not write to recipients but in these two ways. What is under lease is the dispatcher's.
CREATE FUNCTION api.cancel(email uuid) RETURNS bigint
LANGUAGE sql STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    WITH changed AS (
        UPDATE api.recipient SET status = 'cancelled', changed_at = now()
         WHERE message = cancel.email AND domain = current_setting('api.domain', true) AND status = 'queued'
        RETURNING *),
    noted AS (
        INSERT INTO api.event (domain, message, recipient, kind, address)
        SELECT domain, message, id, 'cancelled', address FROM changed)
    SELECT count(*) FROM changed
$body$;

CREATE FUNCTION api.reschedule(email uuid, send_at timestamptz) RETURNS bigint
LANGUAGE sql STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    WITH changed AS (
        UPDATE api.recipient r
           SET not_before = reschedule.send_at, changed_at = now(),
               expires_at = reschedule.send_at + (r.expires_at - coalesce(m.send_at, m.created_at))
          FROM api.message m
         WHERE m.id = reschedule.email AND m.domain = current_setting('api.domain', true)
           AND r.message = m.id AND r.status = 'queued'
        RETURNING r.*),
    noted AS (
        INSERT INTO api.event (domain, message, recipient, kind, address, source)
        SELECT domain, message, id, 'rescheduled', address, pg_current_xact_id()::text FROM changed),
    moved AS (
        UPDATE api.message SET send_at = reschedule.send_at WHERE id IN (SELECT message FROM changed))
    SELECT count(*) FROM changed
$body$;
REVOKE ALL ON FUNCTION api.cancel(uuid), api.reschedule(uuid, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION api.cancel(uuid), api.reschedule(uuid, timestamptz) TO mailwright_api;
"""

_STREAMS = r"""
-- Beside these, every domain has the streams transactional and broadcast, without a row.
CREATE TABLE api.stream (
    domain text NOT NULL,
    name text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('transactional', 'broadcast')),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (domain, name)
);
GRANT SELECT, INSERT, DELETE ON api.stream TO mailwright_api;
ALTER TABLE api.stream ENABLE ROW LEVEL SECURITY;
CREATE POLICY one_domain ON api.stream TO mailwright_api
    USING (domain = current_setting('api.domain', true)) WITH CHECK (domain = current_setting('api.domain', true));

-- unsubscribe: each recipient's message gets a link of its own (RFC 8058), made of its token
ALTER TABLE api.message ADD COLUMN stream text NOT NULL DEFAULT 'transactional';
ALTER TABLE api.message ADD COLUMN unsubscribe boolean NOT NULL DEFAULT false;

-- stream '': all of the domain's
ALTER TABLE api.suppression ADD COLUMN stream text NOT NULL DEFAULT '';
ALTER TABLE api.suppression DROP CONSTRAINT suppression_pkey;
ALTER TABLE api.suppression ADD PRIMARY KEY (domain, address, stream);
ALTER TABLE api.suppression DROP CONSTRAINT suppression_reason_check;
ALTER TABLE api.suppression ADD CONSTRAINT suppression_reason_check
    CHECK (reason IN ('invalid_recipient', 'bad_domain', 'inactive_mailbox', 'expired', 'manual', 'complaint',
                      'unsubscribed'));
-- A domain's keys cannot lift a complaint.
CREATE POLICY complaints_stay ON api.suppression AS RESTRICTIVE FOR DELETE TO mailwright_api
    USING (reason <> 'complaint');
GRANT UPDATE (reason, detail) ON api.suppression TO mailwright_dispatch;

-- Links outlive the messages that they came with.
CREATE TABLE api.unsubscribe_link (
    token text PRIMARY KEY,
    domain text NOT NULL,
    address text NOT NULL,
    stream text NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX unsubscribe_link_age ON api.unsubscribe_link (created_at);
GRANT SELECT, INSERT, DELETE ON api.unsubscribe_link TO mailwright_dispatch;

-- Whoever has the link needs no key, so there is no domain for row-level security: only what the token names.
CREATE FUNCTION api.unsubscribe(token text) RETURNS boolean
LANGUAGE sql STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    WITH known AS (
        SELECT r.id, r.message, r.domain, lower(r.address) AS address, m.stream
          FROM api.recipient r JOIN api.message m ON m.id = r.message
         WHERE r.token = unsubscribe.token AND m.unsubscribe
        UNION ALL
        SELECT NULL, NULL, link.domain, link.address, link.stream
          FROM api.unsubscribe_link link WHERE link.token = unsubscribe.token),
    added AS (
        INSERT INTO api.suppression (domain, address, stream, reason)
        SELECT domain, address, stream, 'unsubscribed' FROM known ON CONFLICT DO NOTHING),
    noted AS (
        INSERT INTO api.event (domain, message, recipient, kind, address)
        SELECT domain, message, id, 'unsubscribed', address FROM known WHERE id IS NOT NULL ON CONFLICT DO NOTHING)
    SELECT count(*) > 0 FROM known
$body$;
REVOKE ALL ON FUNCTION api.unsubscribe(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION api.unsubscribe(text) TO mailwright_api;
"""

_STATISTICS = r"""
-- Events come in the order of time: an index of ranges costs next to nothing.
CREATE INDEX event_at ON api.event USING brin (at) WITH (pages_per_range = 16, autosummarize = on);

-- Who received it: the last two labels of the other server's name, three where those are as in co.uk; local for this
-- host's own mailboxes.
CREATE FUNCTION api.provider(relay text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $body$
    SELECT CASE
        WHEN relay LIKE '%[/%' OR relay IN ('local', 'virtual') THEN 'local'
        ELSE coalesce(
            substring(lower(relay) from '([^.\[]+\.[a-z]{2,3}\.[a-z]{2})\.?\['),
            substring(lower(relay) from '([^.\[]+\.[^.\[]+)\.?\['),
            '')
        END
$body$;

-- Each message to each recipient counts once a day and kind. Under row-level security it sees what its caller may see.
CREATE FUNCTION api.daily_figures(since timestamptz) RETURNS TABLE (
    domain text, day date, provider text, accepted bigint, delivered bigint, deferred bigint, bounced bigint,
    expired bigint, complained bigint, unsubscribed bigint)
LANGUAGE sql STABLE
AS $body$
    SELECT e.domain, (e.at AT TIME ZONE 'UTC')::date, api.provider(coalesce(l.relay, '')),
           count(DISTINCT e.recipient) FILTER (WHERE e.kind = 'accepted'),
           count(DISTINCT e.recipient) FILTER (WHERE e.kind = 'delivered'),
           count(DISTINCT e.recipient) FILTER (WHERE e.kind = 'deferred'),
           count(DISTINCT e.recipient) FILTER (WHERE e.kind = 'bounced'),
           count(DISTINCT e.recipient) FILTER (WHERE e.kind = 'expired'),
           count(DISTINCT e.recipient) FILTER (WHERE e.kind = 'complained'),
           count(DISTINCT e.recipient) FILTER (WHERE e.kind = 'unsubscribed')
      FROM api.event e
      LEFT JOIN LATERAL (
          SELECT o.relay FROM api.event o
           WHERE o.recipient = e.recipient AND o.relay <> '' AND o.source <> 'report' ORDER BY o.id DESC LIMIT 1) l
        ON true
     WHERE e.at >= daily_figures.since
       AND e.kind NOT IN ('handed_over', 'rescheduled', 'cancelled', 'suppressed', 'rejected')
     GROUP BY 1, 2, 3
$body$;

-- The days that are over, for longer than their events are kept.
CREATE TABLE api.statistic (
    domain text NOT NULL,
    day date NOT NULL,
    provider text NOT NULL,
    accepted bigint NOT NULL,
    delivered bigint NOT NULL,
    deferred bigint NOT NULL,
    bounced bigint NOT NULL,
    expired bigint NOT NULL,
    complained bigint NOT NULL,
    unsubscribed bigint NOT NULL,
    PRIMARY KEY (domain, day, provider)
);
GRANT SELECT ON api.statistic TO mailwright_api;
GRANT SELECT, INSERT, DELETE ON api.statistic TO mailwright_dispatch;
ALTER TABLE api.statistic ENABLE ROW LEVEL SECURITY;
CREATE POLICY one_domain ON api.statistic TO mailwright_api USING (domain = current_setting('api.domain', true));
CREATE POLICY all_domains ON api.statistic TO mailwright_dispatch USING (true) WITH CHECK (true);
"""

MIGRATIONS: tuple[Migration, ...] = (
    Migration(30, "sending API: templates", _TEMPLATES),
    Migration(31, "sending API: schedules", _SCHEDULES),
    Migration(32, "sending API: streams, unsubscribing, complaints", _STREAMS),
    Migration(33, "sending API: statistics", _STATISTICS),
)
