# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations 50 to 59 of the sending API's schema: mailboxes and aliases, mail submitted by SMTP (pure)."""

from __future__ import annotations

from ..directory.schema import Migration

_DIRECTORY = r"""
-- The service sees the directory by these views alone: of one domain, and without passwords. What it may change are the
-- rows that the API owns. What leads into the server itself (reports, inbound routes) is no alias to it.
CREATE VIEW api.mailbox WITH (security_barrier) AS
    SELECT address, local_part, display_name, quota_bytes, enabled, owner
      FROM directory.mailbox WHERE domain = current_setting('api.domain', true);
CREATE VIEW api.own_mailbox WITH (security_barrier) AS
    SELECT address, domain, local_part, display_name, password, quota_bytes, enabled, owner
      FROM directory.mailbox WHERE domain = current_setting('api.domain', true) AND owner = 'api'
      WITH CHECK OPTION;
CREATE VIEW api.alias WITH (security_barrier) AS
    SELECT address, destination, owner FROM directory.alias
     WHERE domain = current_setting('api.domain', true) AND destination NOT LIKE '%.mailwright.invalid';
CREATE VIEW api.own_alias WITH (security_barrier) AS
    SELECT address, destination, domain, owner FROM directory.alias
     WHERE domain = current_setting('api.domain', true) AND split_part(address, '@', 2) = domain AND owner = 'api'
       AND destination NOT LIKE '%.mailwright.invalid'
      WITH CHECK OPTION;

GRANT SELECT ON api.mailbox, api.alias TO mailwright_api;
GRANT SELECT (address, display_name, quota_bytes, enabled), DELETE,
      INSERT (address, domain, local_part, display_name, password, quota_bytes, enabled, owner),
      UPDATE (display_name, password, quota_bytes, enabled) ON api.own_mailbox TO mailwright_api;
GRANT SELECT, INSERT, DELETE ON api.own_alias TO mailwright_api;

-- At the start of a change: applies and changes take turns, so what was looked up still holds when it is written.
CREATE FUNCTION api.change_directory() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '10s'
AS $body$
BEGIN
    LOCK TABLE directory.mailbox, directory.alias, directory.sender IN SHARE ROW EXCLUSIVE MODE;
END
$body$;

-- The views do not show an inbound route's alias.
CREATE FUNCTION api.is_taken(address text) RETURNS boolean
LANGUAGE sql STABLE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT (EXISTS (SELECT FROM directory.mailbox AS m WHERE m.address = is_taken.address)
            OR EXISTS (SELECT FROM directory.alias AS a WHERE a.address = is_taken.address))
       AND split_part(is_taken.address, '@', 2) = current_setting('api.domain', true)
$body$;

-- Who takes an address's mail, in Postfix's order: the whole address, without +detail, the catch-all.
CREATE FUNCTION api.taker(address text) RETURNS text
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT c.name FROM (VALUES (1, lower(taker.address)),
                               (2, regexp_replace(lower(taker.address), '\+[^@]*@', '@')),
                               (3, '@' || split_part(lower(taker.address), '@', 2))) AS c (rank, name)
     WHERE EXISTS (SELECT FROM directory.mailbox AS m WHERE m.address = c.name)
        OR EXISTS (SELECT FROM directory.alias AS a WHERE a.address = c.name)
     ORDER BY c.rank LIMIT 1
$body$;

-- What is wrong with the domain's alias: destinations in the domain that nobody takes, and whether it leads back to
-- itself (destination '').
CREATE FUNCTION api.alias_problems(address text) RETURNS TABLE (destination text, problem text)
LANGUAGE sql STABLE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    WITH RECURSIVE own AS (
        SELECT a.destination FROM directory.alias AS a
         WHERE a.address = alias_problems.address AND a.domain = current_setting('api.domain', true)),
    way (place) AS (
        SELECT api.taker(own.destination) FROM own
        UNION
        SELECT api.taker(a.destination) FROM way JOIN directory.alias AS a ON a.address = way.place)
    SELECT own.destination, 'missing' FROM own, LATERAL api.taker(own.destination) AS found (taker)
     WHERE split_part(lower(own.destination), '@', 2) = current_setting('api.domain', true)
       AND (found.taker IS NULL OR (found.taker LIKE '@%' AND alias_problems.address LIKE '@%'))
    UNION ALL
    SELECT '', 'circle' WHERE EXISTS (SELECT FROM way WHERE way.place = alias_problems.address)
$body$;

-- A mailbox sends as itself, and as the aliases of its domain that lead to it: as in the inventory's model.
CREATE VIEW api.wanted_sender AS
    SELECT m.domain, m.address, m.address AS login FROM directory.mailbox AS m WHERE m.enabled AND m.owner = 'api'
    UNION
    SELECT a.domain, a.address, m.address
      FROM directory.alias AS a JOIN directory.mailbox AS m ON m.address = a.destination AND m.domain = a.domain
     WHERE m.enabled AND a.owner = 'api' AND a.address NOT LIKE '@%';

-- What follows from the API's mailboxes and aliases: senders, and the usage that goes with a mailbox.
CREATE FUNCTION api.keep_rest() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    place text := CASE WHEN TG_OP = 'DELETE' THEN OLD.domain ELSE NEW.domain END;
BEGIN
    IF TG_TABLE_NAME = 'mailbox' AND TG_OP = 'DELETE' THEN
        DELETE FROM directory.quota_usage AS u WHERE u.address = OLD.address;
    END IF;
    DELETE FROM directory.sender AS s
     WHERE s.owner = 'api' AND split_part(s.address, '@', 2) = place
       AND NOT EXISTS (SELECT FROM api.wanted_sender AS w WHERE w.address = s.address AND w.login = s.login);
    INSERT INTO directory.sender (address, login, owner)
    SELECT w.address, w.login, 'api' FROM api.wanted_sender AS w WHERE w.domain = place ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$body$;

-- As before, and of mailboxes not their hashes either.
CREATE OR REPLACE FUNCTION api.note() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $body$
DECLARE
    secrets text[] := ARRAY['hash', 'secret', 'old_secret', 'password', 'inventory_password'];
    earlier jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) - secrets END;
    later jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) - secrets END;
    known jsonb := coalesce(later, earlier);
BEGIN
    INSERT INTO api.audit (domain, actor, action, kind, target, before, after)
    VALUES (known ->> 'domain',
            coalesce('key ' || nullif(current_setting('api.actor', true), ''), session_user::text),
            CASE TG_OP WHEN 'INSERT' THEN 'created' WHEN 'UPDATE' THEN 'changed' ELSE 'removed' END,
            TG_TABLE_NAME, known ->> TG_ARGV[0], earlier, later);
    RETURN NULL;
END
$body$;

DO $body$
DECLARE
    place text;
    event text;
    row_name text;
    condition text;
BEGIN
    FOREACH place IN ARRAY ARRAY['mailbox', 'alias'] LOOP
        FOREACH event IN ARRAY ARRAY['insert', 'update', 'delete'] LOOP
            row_name := CASE event WHEN 'delete' THEN 'OLD' ELSE 'NEW' END;
            condition := row_name || $text$.owner = 'api'$text$;
            IF place = 'alias' THEN
                condition := condition || ' AND ' || row_name
                             || $text$.destination NOT LIKE '%.mailwright.invalid'$text$;
            END IF;
            EXECUTE format('CREATE TRIGGER %I AFTER %s ON directory.%I FOR EACH ROW WHEN (%s) '
                           'EXECUTE FUNCTION api.keep_rest()', 'keep_rest_' || event, event, place, condition);
            EXECUTE format('CREATE TRIGGER %I AFTER %s ON directory.%I FOR EACH ROW WHEN (%s) '
                           'EXECUTE FUNCTION api.note(%L)', 'note_' || event, event, place, condition, 'address');
        END LOOP;
    END LOOP;
END
$body$;

REVOKE ALL ON FUNCTION api.change_directory(), api.is_taken(text), api.taker(text), api.alias_problems(text),
    api.keep_rest() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION api.change_directory(), api.is_taken(text), api.alias_problems(text) TO mailwright_api;
"""

_SUBMISSIONS = r"""
-- What users submit by SMTP, as Postfix's log tells it. Queue ids are not used again (enable_long_queue_ids).
CREATE TABLE api.submission (
    queue_id text PRIMARY KEY,
    domain text NOT NULL,
    at timestamptz NOT NULL
);
CREATE INDEX submission_age ON api.submission (at);

-- Each kind once for each recipient and day, however often the log is read.
CREATE TABLE api.submission_event (
    queue_id text NOT NULL REFERENCES api.submission ON DELETE CASCADE,
    domain text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('accepted', 'delivered', 'deferred', 'bounced', 'expired')),
    day date NOT NULL,
    address text NOT NULL,
    relay text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (queue_id, address, kind, day)
);
CREATE INDEX submission_event_at ON api.submission_event USING brin (at)
    WITH (pages_per_range = 16, autosummarize = on);

GRANT SELECT ON api.submission, api.submission_event TO mailwright_api;
GRANT SELECT, INSERT, DELETE ON api.submission, api.submission_event TO mailwright_dispatch;
ALTER TABLE api.submission ENABLE ROW LEVEL SECURITY;
ALTER TABLE api.submission_event ENABLE ROW LEVEL SECURITY;
CREATE POLICY one_domain ON api.submission TO mailwright_api USING (domain = current_setting('api.domain', true));
CREATE POLICY one_domain ON api.submission_event TO mailwright_api
    USING (domain = current_setting('api.domain', true));
CREATE POLICY all_domains ON api.submission TO mailwright_dispatch USING (true) WITH CHECK (true);
CREATE POLICY all_domains ON api.submission_event TO mailwright_dispatch USING (true) WITH CHECK (true);

-- As before, and what was submitted by SMTP.
CREATE OR REPLACE FUNCTION api.daily_figures(since timestamptz) RETURNS TABLE (
    domain text, day date, provider text, accepted bigint, delivered bigint, deferred bigint, bounced bigint,
    expired bigint, complained bigint, unsubscribed bigint)
LANGUAGE sql STABLE
AS $body$
    SELECT e.domain, (e.at AT TIME ZONE 'UTC')::date, api.provider(coalesce(e.relay, '')),
           count(DISTINCT e.recipient) FILTER (WHERE e.kind = 'accepted'),
           count(DISTINCT e.recipient) FILTER (WHERE e.kind = 'delivered'),
           count(DISTINCT e.recipient) FILTER (WHERE e.kind = 'deferred'),
           count(DISTINCT e.recipient) FILTER (WHERE e.kind = 'bounced'),
           count(DISTINCT e.recipient) FILTER (WHERE e.kind = 'expired'),
           count(DISTINCT e.recipient) FILTER (WHERE e.kind = 'complained'),
           count(DISTINCT e.recipient) FILTER (WHERE e.kind = 'unsubscribed')
      FROM (
          SELECT a.domain, a.kind, a.at, a.recipient::text, l.relay
            FROM api.event a
            LEFT JOIN LATERAL (
                SELECT o.relay FROM api.event o
                 WHERE o.recipient = a.recipient AND o.relay <> '' AND o.source <> 'report'
                 ORDER BY o.id DESC LIMIT 1) l ON true
           WHERE a.at >= daily_figures.since
             AND a.kind NOT IN ('handed_over', 'rescheduled', 'cancelled', 'suppressed', 'rejected')
          UNION ALL
          SELECT s.domain, s.kind, s.at, s.queue_id || ' ' || s.address, l.relay
            FROM api.submission_event s
            LEFT JOIN LATERAL (
                SELECT o.relay FROM api.submission_event o
                 WHERE o.queue_id = s.queue_id AND o.address = s.address AND o.relay <> ''
                 ORDER BY o.at DESC LIMIT 1) l ON true
           WHERE s.at >= daily_figures.since) e
     GROUP BY 1, 2, 3
$body$;
"""

MIGRATIONS = (
    Migration(50, "sending API: mailboxes and aliases", _DIRECTORY),
    Migration(51, "sending API: statistics of mail submitted by SMTP", _SUBMISSIONS),
)
