# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations 40 to 49 of the sending API's schema: rate limits, warm-up (pure)."""

from __future__ import annotations

from ..directory.schema import Migration

_LIMITS = r"""
-- NULL: no limit. Both are the inventory's or the module's; a key that is made by a key has its maker's.
ALTER TABLE api.key ADD COLUMN requests_per_minute integer CHECK (requests_per_minute > 0);
ALTER TABLE api.key ADD COLUMN recipients_per_hour integer CHECK (recipients_per_hour > 0);

CREATE TABLE api.domain_limit (
    domain text PRIMARY KEY,
    requests_per_minute integer CHECK (requests_per_minute > 0),
    recipients_per_hour integer CHECK (recipients_per_hour > 0)
);

-- What was used in the window that began at since.
CREATE TABLE api.usage (
    subject text NOT NULL,
    unit text NOT NULL CHECK (unit IN ('requests', 'recipients')),
    since timestamptz NOT NULL,
    used integer NOT NULL,
    PRIMARY KEY (subject, unit)
);

CREATE FUNCTION api.limits(key_id text) RETURNS TABLE (subject text, unit text, most integer, seconds integer)
LANGUAGE sql STABLE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    WITH subjects AS (
        SELECT 'key ' || k.id AS subject, k.requests_per_minute, k.recipients_per_hour
          FROM api.key AS k WHERE k.id = limits.key_id
        UNION ALL
        SELECT 'domain ' || d.domain, d.requests_per_minute, d.recipients_per_hour
          FROM api.domain_limit AS d JOIN api.key AS k ON k.domain = d.domain WHERE k.id = limits.key_id)
    SELECT s.subject, 'requests', s.requests_per_minute, 60 FROM subjects AS s WHERE s.requests_per_minute IS NOT NULL
    UNION ALL
    SELECT s.subject, 'recipients', s.recipients_per_hour, 3600 FROM subjects AS s
     WHERE s.recipients_per_hour IS NOT NULL
$body$;
REVOKE ALL ON FUNCTION api.limits(text) FROM PUBLIC;

-- All limits of the key and its domain that this unit has, each with what is left of it. The amount is taken from all
-- of them or from none. Windows are the clock's minutes and hours. Whoever comes second waits for the first one's
-- transaction, and is in order of subject, so none waits for ever.
CREATE FUNCTION api.charge(key_id text, wanted_unit text, amount integer)
RETURNS TABLE (subject text, most integer, remaining integer, reset integer, granted boolean)
LANGUAGE plpgsql STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
#variable_conflict use_column
DECLARE
    fits boolean := true;
    moment timestamptz;
BEGIN
    INSERT INTO api.usage (subject, unit, since, used)
    SELECT l.subject, l.unit, 'epoch', 0 FROM api.limits(charge.key_id) AS l WHERE l.unit = charge.wanted_unit
    ORDER BY l.subject ON CONFLICT DO NOTHING;
    PERFORM FROM api.usage AS u WHERE u.unit = charge.wanted_unit
        AND u.subject IN (SELECT l.subject FROM api.limits(charge.key_id) AS l) ORDER BY u.subject FOR UPDATE;
    -- not the transaction's beginning: it may have waited
    moment := clock_timestamp();
    UPDATE api.usage AS u SET since = date_bin(make_interval(secs => l.seconds), moment, 'epoch'), used = 0
      FROM api.limits(charge.key_id) AS l
     WHERE l.unit = charge.wanted_unit AND u.subject = l.subject AND u.unit = l.unit
       AND u.since <> date_bin(make_interval(secs => l.seconds), moment, 'epoch');
    SELECT coalesce(bool_and(u.used + charge.amount <= l.most), true) INTO fits
      FROM api.limits(charge.key_id) AS l JOIN api.usage AS u ON u.subject = l.subject AND u.unit = l.unit
     WHERE l.unit = charge.wanted_unit;
    IF fits THEN
        UPDATE api.usage AS u SET used = u.used + charge.amount FROM api.limits(charge.key_id) AS l
         WHERE l.unit = charge.wanted_unit AND u.subject = l.subject AND u.unit = l.unit;
    END IF;
    RETURN QUERY
        SELECT l.subject, l.most, greatest(l.most - u.used, 0),
               ceil(extract(epoch FROM u.since - moment) + l.seconds)::integer,
               fits OR u.used + charge.amount <= l.most
          FROM api.limits(charge.key_id) AS l JOIN api.usage AS u ON u.subject = l.subject AND u.unit = l.unit
         WHERE l.unit = charge.wanted_unit;
END
$body$;
REVOKE ALL ON FUNCTION api.charge(text, text, integer) FROM PUBLIC;

-- A key that another key makes is bound as its maker is.
CREATE FUNCTION api.inherit_limits() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    SELECT k.requests_per_minute, k.recipients_per_hour INTO NEW.requests_per_minute, NEW.recipients_per_hour
      FROM api.key AS k WHERE k.id = current_setting('api.actor', true);
    RETURN NEW;
END
$body$;
REVOKE ALL ON FUNCTION api.inherit_limits() FROM PUBLIC;
CREATE TRIGGER inherit_limits BEFORE INSERT ON api.key
    FOR EACH ROW WHEN (current_setting('api.actor', true) <> '') EXECUTE FUNCTION api.inherit_limits();

GRANT EXECUTE ON FUNCTION api.limits(text), api.charge(text, text, integer) TO mailwright_api;
GRANT SELECT, DELETE ON api.usage TO mailwright_dispatch;
"""

_WARMUP = r"""
-- Who receives a domain's mail: the part of its mail servers' names that statistics go by. NULL: not looked up yet.
CREATE TABLE api.destination (
    domain text PRIMARY KEY,
    provider text CHECK (provider <> ''),
    asked_at timestamptz NOT NULL DEFAULT now(),
    known_at timestamptz
);
CREATE INDEX destination_unknown ON api.destination (asked_at) WHERE provider IS NULL;

-- See sending/warmup.py. The provider * is all of them together.
CREATE TABLE api.ramp (
    address text NOT NULL,
    provider text NOT NULL,
    stage integer NOT NULL DEFAULT 0,
    hour timestamptz NOT NULL DEFAULT 'epoch',
    sent_hour integer NOT NULL DEFAULT 0,
    sent_day integer NOT NULL DEFAULT 0,
    bounced integer NOT NULL DEFAULT 0,
    complained integer NOT NULL DEFAULT 0,
    paused_until timestamptz,
    refused_on date,
    PRIMARY KEY (address, provider)
);

-- During warm-up each recipient is sorted into a lane: a provider, local for this host's own domains, or relay.
ALTER TABLE api.recipient ADD COLUMN lane text;
ALTER TABLE api.recipient ADD COLUMN rank smallint NOT NULL DEFAULT 0;
CREATE INDEX recipient_unsorted ON api.recipient (not_before) WHERE status = 'queued' AND lane IS NULL;
CREATE INDEX recipient_lane ON api.recipient (lane, rank, not_before) WHERE status = 'queued' AND lane IS NOT NULL;
CREATE INDEX recipient_outstanding ON api.recipient (lane)
    WHERE status IN ('sending', 'handed_over', 'deferred') AND lane IS NOT NULL;

-- Broadcast mail ranks behind. What nobody could look up for a minute goes by the domain's own name.
CREATE FUNCTION api.sort_recipients(from_address text, most integer) RETURNS bigint
LANGUAGE sql STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    WITH due AS (
        SELECT r.id, r.domain, m.stream, lower(split_part(r.address, '@', 2)) AS target
          FROM api.recipient AS r JOIN api.message AS m ON m.id = r.message
         WHERE r.status = 'queued' AND r.lane IS NULL AND r.not_before <= now()
         ORDER BY r.not_before LIMIT most FOR UPDATE OF r SKIP LOCKED),
    placed AS (
        SELECT due.id,
               CASE WHEN EXISTS (SELECT FROM directory.domain AS h WHERE h.name = due.target) THEN 'local'
                    WHEN d.provider IS NOT NULL THEN d.provider
                    WHEN d.asked_at < now() - interval '1 minute'
                    THEN coalesce(nullif(api.provider(due.target || '['), ''), due.target) END AS lane,
               CASE WHEN due.stream = 'transactional' THEN 0 WHEN due.stream = 'broadcast' THEN 1
                    ELSE (SELECT count(*) FROM api.stream AS s WHERE s.domain = due.domain AND s.name = due.stream
                             AND s.kind = 'broadcast') END AS rank,
               due.target, d.domain IS NULL AS unasked
          FROM due LEFT JOIN api.destination AS d ON d.domain = due.target),
    asked AS (
        INSERT INTO api.destination (domain) SELECT DISTINCT target FROM placed WHERE lane IS NULL AND unasked
        ON CONFLICT DO NOTHING),
    ramps AS (
        INSERT INTO api.ramp (address, provider)
        SELECT DISTINCT from_address, lane FROM placed WHERE lane <> 'local' ON CONFLICT DO NOTHING),
    sorted AS (
        UPDATE api.recipient AS r SET lane = p.lane, rank = p.rank FROM placed AS p
         WHERE r.id = p.id AND p.lane IS NOT NULL RETURNING r.id)
    SELECT count(*) FROM sorted
$body$;
REVOKE ALL ON FUNCTION api.sort_recipients(text, integer) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION api.sort_recipients(text, integer) TO mailwright_dispatch;
GRANT SELECT, INSERT, UPDATE ON api.ramp TO mailwright_dispatch;
GRANT SELECT, DELETE ON api.destination TO mailwright_dispatch;
GRANT SELECT, UPDATE (provider, known_at) ON api.destination TO mailwright_webhooks;

-- For callers: what holds their mail up, and how much of it. Not how much others send.
CREATE FUNCTION api.warmup() RETURNS TABLE (
    provider text, stage integer, paused_until timestamptz, waiting bigint)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT ramp.provider, ramp.stage, ramp.paused_until,
           (SELECT count(*) FROM api.recipient AS r
             WHERE r.domain = current_setting('api.domain', true) AND r.status = 'queued' AND r.lane IS NOT NULL
               AND (r.lane = ramp.provider OR ramp.provider = '*'))
      FROM api.ramp AS ramp
     WHERE ramp.address = current_setting('api.warmup_address', true)
     ORDER BY ramp.provider
$body$;
REVOKE ALL ON FUNCTION api.warmup() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION api.warmup() TO mailwright_api;

-- For the metrics: how many recipients wait for the warm-up, and how many receivers refuse this address.
CREATE FUNCTION api.warmup_figures() RETURNS TABLE (name text, label text, count bigint)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT 'warmup_waiting', '', count(*) FROM api.recipient AS r
     WHERE r.status = 'queued' AND r.lane NOT IN ('local', 'relay')
    UNION ALL
    SELECT 'warmup_paused_providers', '', count(*) FROM api.ramp AS ramp WHERE ramp.paused_until > now()
$body$;
REVOKE ALL ON FUNCTION api.warmup_figures() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION api.warmup_figures() TO mailwright_api;
"""

MIGRATIONS: tuple[Migration, ...] = (
    Migration(40, "sending API: rate limits", _LIMITS),
    Migration(41, "sending API: warm-up", _WARMUP),
)
