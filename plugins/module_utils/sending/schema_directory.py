# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations from 50 on of the sending API's schema: mailboxes and aliases of the directory (pure)."""

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
GRANT SELECT (address), DELETE, INSERT (address, domain, local_part, display_name, password, quota_bytes, enabled,
                                        owner),
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

CREATE FUNCTION api.keep_senders() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    place text := CASE WHEN TG_OP = 'DELETE' THEN OLD.domain ELSE NEW.domain END;
BEGIN
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
                           'EXECUTE FUNCTION api.keep_senders()', 'keep_senders_' || event, event, place, condition);
            EXECUTE format('CREATE TRIGGER %I AFTER %s ON directory.%I FOR EACH ROW WHEN (%s) '
                           'EXECUTE FUNCTION api.note(%L)', 'note_' || event, event, place, condition, 'address');
        END LOOP;
    END LOOP;
END
$body$;

REVOKE ALL ON FUNCTION api.change_directory(), api.is_taken(text), api.taker(text), api.alias_problems(text),
    api.keep_senders() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION api.change_directory(), api.is_taken(text), api.alias_problems(text) TO mailwright_api;
"""

MIGRATIONS = (Migration(50, "sending API: mailboxes and aliases", _DIRECTORY),)
