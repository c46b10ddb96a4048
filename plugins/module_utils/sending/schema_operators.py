# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations 61 to 64 of the sending API's schema: keys of operators, tenants that they make, members (pure)."""

from __future__ import annotations

from ..directory.schema import Migration

_OPERATORS = r"""
-- All of it is the inventory's; the web service has no right to it.
CREATE TABLE api.operator_key (
    id text PRIMARY KEY,
    name text NOT NULL UNIQUE,
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    scopes text[] NOT NULL
);

-- Whether the key that asks is an operator's that has the scope.
CREATE FUNCTION api.operator_may(scope text) RETURNS boolean
LANGUAGE sql STABLE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT EXISTS (SELECT FROM api.operator_key AS k
                    WHERE k.id = current_setting('api.actor', true) AND operator_may.scope = ANY (k.scopes))
$body$;

-- Whose key it is, of whichever kind. limited: there may be limits of it or of its domain.
CREATE FUNCTION api.find_caller(id text)
RETURNS TABLE (kind text, tenant text, role text, domains text[], scopes text[], hash bytea, limited boolean)
LANGUAGE plpgsql STABLE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    RETURN QUERY
        SELECT 'domain', NULL::text, NULL::text, ARRAY[k.domain], k.scopes, k.hash,
               EXISTS (SELECT FROM api.limits(find_caller.id))
          FROM api.find_key(find_caller.id) AS k;
    IF FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY
        SELECT 'tenant', t.tenant, NULL::text, k.domains, k.scopes, k.hash, true
          FROM api.find_tenant_key(find_caller.id) AS k JOIN api.tenant_key AS t ON t.id = find_caller.id;
    IF FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY
        SELECT 'operator', NULL::text, NULL::text, ARRAY[]::text[], k.scopes, k.hash, false
          FROM api.operator_key AS k WHERE k.id = find_caller.id;
END
$body$;

REVOKE ALL ON FUNCTION api.operator_may(text), api.find_caller(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION api.operator_may(text), api.find_caller(text) TO mailwright_api;
"""

_TENANTS = r"""
-- A tenant's owner owns its domains and its keys too.
CREATE TABLE api.tenant (
    name text PRIMARY KEY CHECK (name <> ''),
    title text NOT NULL DEFAULT '',
    owner text NOT NULL CHECK (owner IN ('inventory', 'api')),
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO api.tenant (name, owner)
SELECT d.tenant, 'inventory' FROM api.tenant_domain AS d UNION SELECT k.tenant, 'inventory' FROM api.tenant_key AS k;
ALTER TABLE api.tenant_domain ADD FOREIGN KEY (tenant) REFERENCES api.tenant;
ALTER TABLE api.tenant_key ADD FOREIGN KEY (tenant) REFERENCES api.tenant ON DELETE CASCADE;
ALTER TABLE api.tenant_key ADD COLUMN created_at timestamptz NOT NULL DEFAULT now();

-- NULL: it is not hosted.
CREATE FUNCTION api.domain_owner(domain text) RETURNS text
LANGUAGE sql STABLE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT hosted.owner FROM directory.domain AS hosted WHERE hosted.name = domain_owner.domain
$body$;
REVOKE ALL ON FUNCTION api.domain_owner(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION api.domain_owner(text) TO mailwright_api;

GRANT SELECT, INSERT (name, title, owner), UPDATE (title), DELETE ON api.tenant TO mailwright_api;
GRANT SELECT, INSERT, DELETE ON api.tenant_domain TO mailwright_api;
GRANT SELECT (id, tenant, name, scopes, requests_per_minute, recipients_per_hour, created_at),
      INSERT (id, tenant, name, hash, scopes, requests_per_minute, recipients_per_hour), DELETE
   ON api.tenant_key TO mailwright_api;

-- A tenant sees itself and its domains. Keys of operators see all tenants, and change those that the API owns.
ALTER TABLE api.tenant ENABLE ROW LEVEL SECURITY;
ALTER TABLE api.tenant_domain ENABLE ROW LEVEL SECURITY;
ALTER TABLE api.tenant_key ENABLE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON api.tenant FOR SELECT TO mailwright_api
    USING (name = current_setting('api.tenant', true));
CREATE POLICY one_tenant ON api.tenant_domain FOR SELECT TO mailwright_api
    USING (tenant = current_setting('api.tenant', true));
CREATE POLICY operators_change ON api.tenant TO mailwright_api
    USING (owner = 'api' AND (SELECT api.operator_may('tenants.write')));
-- What a tenant brought itself is not the operator's to give or to take.
CREATE POLICY operators_add ON api.tenant_domain FOR INSERT TO mailwright_api
    WITH CHECK ((SELECT api.operator_may('tenants.write'))
                AND tenant IN (SELECT t.name FROM api.tenant AS t WHERE t.owner = 'api')
                AND api.domain_owner(domain) = 'inventory');
CREATE POLICY operators_remove ON api.tenant_domain FOR DELETE TO mailwright_api
    USING ((SELECT api.operator_may('tenants.write'))
           AND tenant IN (SELECT t.name FROM api.tenant AS t WHERE t.owner = 'api')
           AND api.domain_owner(domain) IS DISTINCT FROM 'api');
CREATE POLICY operators_change ON api.tenant_key TO mailwright_api
    USING ((SELECT api.operator_may('tenants.write'))
           AND tenant IN (SELECT t.name FROM api.tenant AS t WHERE t.owner = 'api'));
DO $body$
DECLARE
    place text;
BEGIN
    FOREACH place IN ARRAY ARRAY['tenant', 'tenant_domain', 'tenant_key'] LOOP
        EXECUTE format('CREATE POLICY operators_see ON api.%I FOR SELECT TO mailwright_api USING '
                       '((SELECT api.operator_may(''tenants.read'') OR api.operator_may(''tenants.write'')))', place);
    END LOOP;
END
$body$;

-- Entries are a domain's or a tenant's.
ALTER TABLE api.audit ALTER COLUMN domain DROP NOT NULL;
ALTER TABLE api.audit ADD COLUMN tenant text;
ALTER TABLE api.audit ADD CHECK ((domain IS NULL) <> (tenant IS NULL));
CREATE INDEX audit_tenant ON api.audit (tenant, id) WHERE tenant IS NOT NULL;

-- As before. A second argument of the trigger names the column with the tenant, whose entry it is then.
CREATE OR REPLACE FUNCTION api.note() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $body$
DECLARE
    secrets text[] := ARRAY['hash', 'secret', 'old_secret', 'password', 'inventory_password'];
    earlier jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) - secrets END;
    later jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) - secrets END;
    known jsonb := coalesce(later, earlier);
    of_tenant text := CASE WHEN TG_NARGS > 1 THEN known ->> TG_ARGV[1] END;
BEGIN
    INSERT INTO api.audit (domain, tenant, actor, action, kind, target, before, after)
    VALUES (CASE WHEN of_tenant IS NULL THEN known ->> 'domain' END, of_tenant,
            coalesce('key ' || nullif(current_setting('api.actor', true), ''), session_user::text),
            CASE TG_OP WHEN 'INSERT' THEN 'created' WHEN 'UPDATE' THEN 'changed' ELSE 'removed' END,
            TG_TABLE_NAME, known ->> TG_ARGV[0], earlier, later);
    RETURN NULL;
END
$body$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON api.tenant
    FOR EACH ROW EXECUTE FUNCTION api.note('name', 'name');
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON api.tenant_domain
    FOR EACH ROW EXECUTE FUNCTION api.note('domain', 'tenant');
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON api.tenant_key
    FOR EACH ROW EXECUTE FUNCTION api.note('id', 'tenant');

-- What was written of an earlier tenant of the same name is not this one's.
CREATE POLICY one_tenant ON api.audit FOR SELECT TO mailwright_api
    USING (audit.tenant = current_setting('api.tenant', true)
           AND audit.at >= (SELECT t.created_at FROM api.tenant AS t WHERE t.name = audit.tenant));
CREATE POLICY operators_see ON api.audit FOR SELECT TO mailwright_api
    USING (audit.kind IN ('tenant', 'tenant_domain', 'tenant_key') AND (SELECT api.operator_may('tenants.read')));
"""

_MEMBERS = r"""
CREATE TABLE api.member (
    id uuid PRIMARY KEY,
    tenant text NOT NULL REFERENCES api.tenant ON DELETE CASCADE,
    email text NOT NULL CHECK (email = lower(email)),
    name text NOT NULL DEFAULT '',
    role text NOT NULL CHECK (role IN ('owner', 'admin', 'developer', 'viewer')),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant, email),
    UNIQUE (tenant, id)
);

-- scopes: what was asked for. The key can do what of it the member's role allows when it is used.
CREATE TABLE api.member_key (
    id text PRIMARY KEY,
    tenant text NOT NULL,
    member uuid NOT NULL,
    name text NOT NULL,
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    scopes text[] NOT NULL,
    requests_per_minute integer CHECK (requests_per_minute > 0),
    recipients_per_hour integer CHECK (recipients_per_hour > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (member, name),
    FOREIGN KEY (tenant, member) REFERENCES api.member (tenant, id) ON DELETE CASCADE
);
CREATE INDEX member_key_member ON api.member_key (tenant, member);

GRANT SELECT, INSERT (id, tenant, email, name, role), UPDATE (email, name, role), DELETE ON api.member
   TO mailwright_api;
GRANT SELECT (id, tenant, member, name, scopes, requests_per_minute, recipients_per_hour, created_at),
      INSERT (id, tenant, member, name, hash, scopes), DELETE ON api.member_key TO mailwright_api;
ALTER TABLE api.member ENABLE ROW LEVEL SECURITY;
ALTER TABLE api.member_key ENABLE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON api.member TO mailwright_api USING (tenant = current_setting('api.tenant', true));
CREATE POLICY one_tenant ON api.member_key TO mailwright_api USING (tenant = current_setting('api.tenant', true));

-- The last owner is not removed or lowered by a member, whatever else happens at the same moment. A key that is no
-- longer known was that of a member who was removed while it asked.
CREATE FUNCTION api.keep_owner() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF current_setting('api.actor', true) <> ''
       AND NOT EXISTS (SELECT FROM api.tenant_key AS k WHERE k.id = current_setting('api.actor', true))
       AND NOT EXISTS (SELECT FROM api.operator_key AS k WHERE k.id = current_setting('api.actor', true)) THEN
        PERFORM FROM api.tenant AS t WHERE t.name = OLD.tenant FOR NO KEY UPDATE;
        IF NOT EXISTS (SELECT FROM api.member AS m
                        WHERE m.tenant = OLD.tenant AND m.role = 'owner' AND m.id <> OLD.id) THEN
            RAISE EXCEPTION 'the last owner' USING ERRCODE = 'restrict_violation';
        END IF;
    END IF;
    RETURN coalesce(NEW, OLD);
END
$body$;
CREATE TRIGGER keep_owner_delete BEFORE DELETE ON api.member
    FOR EACH ROW WHEN (OLD.role = 'owner') EXECUTE FUNCTION api.keep_owner();
CREATE TRIGGER keep_owner_update BEFORE UPDATE ON api.member
    FOR EACH ROW WHEN (OLD.role = 'owner' AND NEW.role <> 'owner') EXECUTE FUNCTION api.keep_owner();

CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON api.member
    FOR EACH ROW EXECUTE FUNCTION api.note('id', 'tenant');
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON api.member_key
    FOR EACH ROW EXECUTE FUNCTION api.note('id', 'tenant');

-- As before, and members' keys with the role of now.
CREATE OR REPLACE FUNCTION api.find_caller(id text)
RETURNS TABLE (kind text, tenant text, role text, domains text[], scopes text[], hash bytea, limited boolean)
LANGUAGE plpgsql STABLE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    RETURN QUERY
        SELECT 'domain', NULL::text, NULL::text, ARRAY[k.domain], k.scopes, k.hash,
               EXISTS (SELECT FROM api.limits(find_caller.id))
          FROM api.find_key(find_caller.id) AS k;
    IF FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY
        SELECT 'tenant', t.tenant, NULL::text, k.domains, k.scopes, k.hash, true
          FROM api.find_tenant_key(find_caller.id) AS k JOIN api.tenant_key AS t ON t.id = find_caller.id;
    IF FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY
        SELECT 'member', m.tenant, m.role,
               ARRAY(SELECT d.domain
                       FROM api.tenant_domain AS d JOIN directory.domain AS hosted ON hosted.name = d.domain
                      WHERE d.tenant = m.tenant AND hosted.enabled ORDER BY d.domain),
               k.scopes, k.hash, true
          FROM api.member_key AS k JOIN api.member AS m ON m.id = k.member WHERE k.id = find_caller.id;
    IF FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY
        SELECT 'operator', NULL::text, NULL::text, ARRAY[]::text[], k.scopes, k.hash, false
          FROM api.operator_key AS k WHERE k.id = find_caller.id;
END
$body$;

-- As before, and of members' keys.
CREATE OR REPLACE FUNCTION api.limits(key_id text)
RETURNS TABLE (subject text, unit text, most integer, seconds integer)
LANGUAGE sql STABLE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    WITH tenant_keys AS (
        SELECT k.id, k.tenant, k.requests_per_minute, k.recipients_per_hour
          FROM api.tenant_key AS k WHERE k.id = limits.key_id
        UNION ALL
        SELECT k.id, k.tenant, k.requests_per_minute, k.recipients_per_hour
          FROM api.member_key AS k WHERE k.id = limits.key_id),
    subjects AS (
        SELECT 'key ' || k.id AS subject, k.requests_per_minute, k.recipients_per_hour
          FROM api.key AS k WHERE k.id = limits.key_id
        UNION ALL
        SELECT 'domain ' || d.domain, d.requests_per_minute, d.recipients_per_hour
          FROM api.domain_limit AS d JOIN api.key AS k ON k.domain = d.domain WHERE k.id = limits.key_id
        UNION ALL
        SELECT 'key ' || k.id, k.requests_per_minute, k.recipients_per_hour FROM tenant_keys AS k
        UNION ALL
        SELECT 'domain ' || d.domain, d.requests_per_minute, d.recipients_per_hour
          FROM api.domain_limit AS d JOIN api.tenant_domain AS t ON t.domain = d.domain
          JOIN tenant_keys AS k ON k.tenant = t.tenant
         WHERE d.domain = current_setting('api.domain', true))
    SELECT s.subject, 'requests', s.requests_per_minute, 60 FROM subjects AS s WHERE s.requests_per_minute IS NOT NULL
    UNION ALL
    SELECT s.subject, 'recipients', s.recipients_per_hour, 3600 FROM subjects AS s
     WHERE s.recipients_per_hour IS NOT NULL
$body$;

-- As before, also where the maker is a member's key; and of members' keys.
CREATE OR REPLACE FUNCTION api.inherit_limits() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    SELECT k.requests_per_minute, k.recipients_per_hour INTO NEW.requests_per_minute, NEW.recipients_per_hour
      FROM (SELECT d.id, d.requests_per_minute, d.recipients_per_hour FROM api.key AS d
            UNION ALL
            SELECT t.id, t.requests_per_minute, t.recipients_per_hour FROM api.tenant_key AS t
            UNION ALL
            SELECT m.id, m.requests_per_minute, m.recipients_per_hour FROM api.member_key AS m) AS k
     WHERE k.id = current_setting('api.actor', true);
    RETURN NEW;
END
$body$;
CREATE TRIGGER inherit_limits BEFORE INSERT ON api.member_key
    FOR EACH ROW WHEN (current_setting('api.actor', true) <> '') EXECUTE FUNCTION api.inherit_limits();

REVOKE ALL ON FUNCTION api.keep_owner() FROM PUBLIC;
"""

MIGRATIONS = (
    Migration(61, "sending API: keys of operators", _OPERATORS),
    Migration(62, "sending API: tenants made by operators", _TENANTS),
    Migration(63, "sending API: members of tenants", _MEMBERS),
)
