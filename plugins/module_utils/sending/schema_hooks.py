# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations of the sending API's schema: webhooks, inbound routes, audit log (pure)."""

from __future__ import annotations

from ..directory.schema import Migration

_WEBHOOKS = r"""
-- secret is needed as it is, to sign. The service that faces the internet may write it and never read it.
CREATE TABLE api.webhook (
    id uuid PRIMARY KEY,
    domain text NOT NULL,
    name text NOT NULL,
    url text NOT NULL,
    events text[] NOT NULL,
    secret text NOT NULL,
    old_secret text,
    old_secret_until timestamptz,
    enabled boolean NOT NULL DEFAULT true,
    disabled_reason text NOT NULL DEFAULT '' CHECK (disabled_reason IN ('', 'manual', 'gone', 'failing')),
    failing_since timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (domain, name),
    UNIQUE (id, domain)
);

-- next_at is also the end of a lease: an attempt that is never written down is made again then, with the same id.
CREATE TABLE api.webhook_delivery (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    webhook uuid NOT NULL,
    domain text NOT NULL,
    type text NOT NULL,
    data jsonb NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'failed')),
    attempts integer NOT NULL DEFAULT 0,
    next_at timestamptz NOT NULL DEFAULT now(),
    response_status integer,
    error text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (webhook, domain) REFERENCES api.webhook (id, domain) ON DELETE CASCADE
);
CREATE INDEX webhook_delivery_webhook ON api.webhook_delivery (webhook, created_at, id);
CREATE INDEX webhook_delivery_pending ON api.webhook_delivery (next_at) WHERE status = 'pending';
CREATE INDEX webhook_delivery_age ON api.webhook_delivery (created_at);

-- In the transaction of the event itself: none is told of that did not happen, and none is forgotten.
CREATE FUNCTION api.tell_webhooks() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $body$
BEGIN
    INSERT INTO api.webhook_delivery (webhook, domain, type, data)
    SELECT w.id, w.domain, 'email.' || added.kind,
           jsonb_build_object('id', added.id, 'email', added.message, 'kind', added.kind, 'at', added.at,
                              'recipient', r.address, 'address', added.address, 'relay', added.relay,
                              'code', added.code, 'detail', added.detail)
      FROM added
      JOIN api.webhook AS w ON w.domain = added.domain AND w.enabled AND 'email.' || added.kind = ANY (w.events)
      JOIN api.recipient AS r ON r.id = added.recipient;
    RETURN NULL;
END
$body$;
REVOKE ALL ON FUNCTION api.tell_webhooks() FROM PUBLIC;
CREATE TRIGGER tell_webhooks AFTER INSERT ON api.event REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION api.tell_webhooks();

-- What waits for a webhook that is switched off waits no longer; it can be posted again by hand.
CREATE FUNCTION api.fail_deliveries() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    UPDATE api.webhook_delivery AS d
       SET status = 'failed', changed_at = now(), error = 'the webhook was switched off'
     WHERE d.webhook = NEW.id AND d.status = 'pending';
    RETURN NULL;
END
$body$;
REVOKE ALL ON FUNCTION api.fail_deliveries() FROM PUBLIC;
CREATE TRIGGER fail_deliveries AFTER UPDATE OF enabled ON api.webhook
    FOR EACH ROW WHEN (OLD.enabled AND NOT NEW.enabled) EXECUTE FUNCTION api.fail_deliveries();

-- The service cannot read the secret that it changes. While receivers take over the new one, both sign.
CREATE FUNCTION api.keep_old_secret() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    NEW.old_secret := OLD.secret;
    NEW.old_secret_until := now() + interval '24 hours';
    RETURN NEW;
END
$body$;
CREATE TRIGGER keep_old_secret BEFORE UPDATE OF secret ON api.webhook
    FOR EACH ROW EXECUTE FUNCTION api.keep_old_secret();

GRANT USAGE ON SCHEMA api TO mailwright_webhooks;
GRANT SELECT (id, domain, name, url, events, old_secret_until, enabled, disabled_reason, failing_since, created_at)
    ON api.webhook TO mailwright_api;
GRANT INSERT (id, domain, name, url, events, secret) ON api.webhook TO mailwright_api;
GRANT UPDATE (name, url, events, secret, enabled, disabled_reason, failing_since) ON api.webhook TO mailwright_api;
GRANT DELETE ON api.webhook TO mailwright_api;
GRANT SELECT, INSERT ON api.webhook_delivery TO mailwright_api;
GRANT UPDATE (status, attempts, next_at, changed_at) ON api.webhook_delivery TO mailwright_api;

GRANT SELECT, UPDATE (enabled, disabled_reason, failing_since) ON api.webhook TO mailwright_webhooks;
GRANT SELECT, UPDATE, DELETE ON api.webhook_delivery TO mailwright_webhooks;

DO $body$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['webhook', 'webhook_delivery'] LOOP
        EXECUTE format('ALTER TABLE api.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY one_domain ON api.%I TO mailwright_api '
                       'USING (domain = current_setting(''api.domain'', true)) '
                       'WITH CHECK (domain = current_setting(''api.domain'', true))', name);
        EXECUTE format('CREATE POLICY all_domains ON api.%I TO mailwright_webhooks USING (true) WITH CHECK (true)',
                       name);
    END LOOP;
END
$body$;
"""

_INBOUND = r"""
-- address: a full one, or @domain for what no other address of the domain takes
CREATE TABLE api.inbound_route (
    id uuid PRIMARY KEY,
    domain text NOT NULL,
    address text NOT NULL UNIQUE CHECK (address = lower(address) AND split_part(address, '@', 2) = domain),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX inbound_route_domain ON api.inbound_route (domain);

-- digest: Postfix delivers again, octet by octet the same, what was stored and whose answer it did not get
CREATE TABLE api.inbound_message (
    id uuid PRIMARY KEY,
    domain text NOT NULL,
    route uuid NOT NULL,
    sender text NOT NULL,
    recipient text NOT NULL,
    content bytea NOT NULL,
    digest bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (route, recipient, sender, digest)
);
CREATE INDEX inbound_message_domain ON api.inbound_message (domain, id);
CREATE INDEX inbound_message_age ON api.inbound_message (created_at);

-- Postfix finds a route as it finds every address: among the directory's aliases, of those that the API owns.
CREATE FUNCTION api.keep_inbound_alias() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF TG_OP = 'DELETE' THEN
        DELETE FROM directory.alias AS a
         WHERE a.address = OLD.address AND a.owner = 'api'
           AND a.destination = split_part(OLD.address, '@', 1) || '@' || replace(OLD.id::text, '-', '')
                               || '.inbound.mailwright.invalid';
        RETURN OLD;
    END IF;
    IF EXISTS (SELECT FROM directory.alias AS a WHERE a.address = NEW.address)
       OR EXISTS (SELECT FROM directory.mailbox AS m WHERE m.address = NEW.address) THEN
        RAISE EXCEPTION 'address is taken' USING ERRCODE = 'unique_violation';
    END IF;
    INSERT INTO directory.alias (address, destination, domain, owner)
    VALUES (NEW.address, split_part(NEW.address, '@', 1) || '@' || replace(NEW.id::text, '-', '')
                         || '.inbound.mailwright.invalid', NEW.domain, 'api');
    RETURN NEW;
END
$body$;
REVOKE ALL ON FUNCTION api.keep_inbound_alias() FROM PUBLIC;
CREATE TRIGGER keep_inbound_alias AFTER INSERT OR DELETE ON api.inbound_route
    FOR EACH ROW EXECUTE FUNCTION api.keep_inbound_alias();

CREATE FUNCTION api.tell_webhooks_of_mail() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    INSERT INTO api.webhook_delivery (webhook, domain, type, data)
    SELECT w.id, w.domain, 'inbound.received', jsonb_build_object('id', NEW.id)
      FROM api.webhook AS w
     WHERE w.domain = NEW.domain AND w.enabled AND 'inbound.received' = ANY (w.events);
    RETURN NULL;
END
$body$;
REVOKE ALL ON FUNCTION api.tell_webhooks_of_mail() FROM PUBLIC;
CREATE TRIGGER tell_webhooks_of_mail AFTER INSERT ON api.inbound_message
    FOR EACH ROW EXECUTE FUNCTION api.tell_webhooks_of_mail();

GRANT SELECT, INSERT, DELETE ON api.inbound_route TO mailwright_api;
GRANT SELECT ON api.inbound_message TO mailwright_api, mailwright_webhooks;
GRANT SELECT ON api.inbound_route TO mailwright_dispatch;
GRANT SELECT, INSERT, DELETE ON api.inbound_message TO mailwright_dispatch;

DO $body$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['inbound_route', 'inbound_message'] LOOP
        EXECUTE format('ALTER TABLE api.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY one_domain ON api.%I TO mailwright_api '
                       'USING (domain = current_setting(''api.domain'', true)) '
                       'WITH CHECK (domain = current_setting(''api.domain'', true))', name);
        EXECUTE format('CREATE POLICY all_domains ON api.%I TO mailwright_dispatch, mailwright_webhooks '
                       'USING (true) WITH CHECK (true)', name);
    END LOOP;
END
$body$;
"""

_AUDIT = r"""
CREATE TABLE api.audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    domain text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    action text NOT NULL CHECK (action IN ('created', 'changed', 'removed')),
    kind text NOT NULL,
    target text NOT NULL,
    before jsonb,
    after jsonb
);
CREATE INDEX audit_domain ON api.audit (domain, id);
CREATE INDEX audit_age ON api.audit (at);

-- Written in the change's own transaction, by whoever makes it: a key by its id, else the database role. The argument
-- of the trigger names the column that a row is known by. Neither secrets nor hashes are noted.
CREATE FUNCTION api.note() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $body$
DECLARE
    secrets text[] := ARRAY['hash', 'secret', 'old_secret'];
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
REVOKE ALL ON FUNCTION api.note() FROM PUBLIC;
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON api.key FOR EACH ROW EXECUTE FUNCTION api.note('id');
CREATE TRIGGER note AFTER INSERT OR DELETE OR UPDATE OF name, url, events, secret, enabled ON api.webhook
    FOR EACH ROW EXECUTE FUNCTION api.note('id');
CREATE TRIGGER note AFTER INSERT OR DELETE ON api.inbound_route FOR EACH ROW EXECUTE FUNCTION api.note('id');
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON api.suppression
    FOR EACH ROW EXECUTE FUNCTION api.note('address');

-- Append only: nobody but the dispatcher removes anything, and only what is old.
GRANT SELECT ON api.audit TO mailwright_api;
GRANT SELECT, DELETE ON api.audit TO mailwright_dispatch;
ALTER TABLE api.audit ENABLE ROW LEVEL SECURITY;
CREATE POLICY one_domain ON api.audit TO mailwright_api USING (domain = current_setting('api.domain', true));
CREATE POLICY all_domains ON api.audit TO mailwright_dispatch USING (true);

-- For the metrics, over all domains: how many of each.
CREATE FUNCTION api.figures() RETURNS TABLE (name text, label text, count bigint)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT 'webhook_deliveries', d.status, count(*) FROM api.webhook_delivery AS d GROUP BY d.status
    UNION ALL SELECT 'webhooks', CASE WHEN w.enabled THEN 'enabled' ELSE 'disabled' END, count(*)
      FROM api.webhook AS w GROUP BY w.enabled
    UNION ALL SELECT 'inbound_messages', '', count(*) FROM api.inbound_message
    UNION ALL SELECT 'inbound_routes', '', count(*) FROM api.inbound_route
$body$;
REVOKE ALL ON FUNCTION api.figures() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION api.figures() TO mailwright_api;
"""

MIGRATIONS = (
    Migration(20, "sending API: webhooks", _WEBHOOKS),
    Migration(21, "sending API: inbound routes", _INBOUND),
    Migration(22, "sending API: audit log", _AUDIT),
)
