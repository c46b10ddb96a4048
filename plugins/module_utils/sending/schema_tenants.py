# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations from 60 on of the sending API's schema: tenants and their keys (pure)."""

from __future__ import annotations

from ..directory.schema import Migration

_TENANTS = r"""
-- All of it is the inventory's. The web service has no right to either table: it asks api.find_tenant_key.
CREATE TABLE api.tenant_domain (
    domain text PRIMARY KEY,
    tenant text NOT NULL
);
CREATE INDEX tenant_domain_tenant ON api.tenant_domain (tenant);

CREATE TABLE api.tenant_key (
    id text PRIMARY KEY,
    tenant text NOT NULL,
    name text NOT NULL,
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    scopes text[] NOT NULL,
    requests_per_minute integer CHECK (requests_per_minute > 0),
    recipients_per_hour integer CHECK (recipients_per_hour > 0),
    UNIQUE (tenant, name)
);

-- Only those domains that are hosted and switched on.
CREATE FUNCTION api.find_tenant_key(id text) RETURNS TABLE (domains text[], scopes text[], hash bytea)
LANGUAGE sql STABLE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT ARRAY(SELECT t.domain FROM api.tenant_domain AS t JOIN directory.domain AS hosted ON hosted.name = t.domain
                  WHERE t.tenant = k.tenant AND hosted.enabled ORDER BY t.domain),
           k.scopes, k.hash
      FROM api.tenant_key AS k WHERE k.id = find_tenant_key.id
$body$;
REVOKE ALL ON FUNCTION api.find_tenant_key(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION api.find_tenant_key(text) TO mailwright_api;

-- As before, and of a tenant's key: its own, and those of its domain that the request is for.
CREATE OR REPLACE FUNCTION api.limits(key_id text)
RETURNS TABLE (subject text, unit text, most integer, seconds integer)
LANGUAGE sql STABLE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    WITH subjects AS (
        SELECT 'key ' || k.id AS subject, k.requests_per_minute, k.recipients_per_hour
          FROM api.key AS k WHERE k.id = limits.key_id
        UNION ALL
        SELECT 'domain ' || d.domain, d.requests_per_minute, d.recipients_per_hour
          FROM api.domain_limit AS d JOIN api.key AS k ON k.domain = d.domain WHERE k.id = limits.key_id
        UNION ALL
        SELECT 'key ' || k.id, k.requests_per_minute, k.recipients_per_hour
          FROM api.tenant_key AS k WHERE k.id = limits.key_id
        UNION ALL
        SELECT 'domain ' || d.domain, d.requests_per_minute, d.recipients_per_hour
          FROM api.domain_limit AS d JOIN api.tenant_domain AS t ON t.domain = d.domain
          JOIN api.tenant_key AS k ON k.tenant = t.tenant
         WHERE k.id = limits.key_id AND d.domain = current_setting('api.domain', true))
    SELECT s.subject, 'requests', s.requests_per_minute, 60 FROM subjects AS s WHERE s.requests_per_minute IS NOT NULL
    UNION ALL
    SELECT s.subject, 'recipients', s.recipients_per_hour, 3600 FROM subjects AS s
     WHERE s.recipients_per_hour IS NOT NULL
$body$;

-- As before, also where the maker is a tenant's key.
CREATE OR REPLACE FUNCTION api.inherit_limits() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    SELECT k.requests_per_minute, k.recipients_per_hour INTO NEW.requests_per_minute, NEW.recipients_per_hour
      FROM (SELECT d.id, d.requests_per_minute, d.recipients_per_hour FROM api.key AS d
            UNION ALL
            SELECT t.id, t.requests_per_minute, t.recipients_per_hour FROM api.tenant_key AS t) AS k
     WHERE k.id = current_setting('api.actor', true);
    RETURN NEW;
END
$body$;
"""

MIGRATIONS: tuple[Migration, ...] = (Migration(60, "sending API: tenants", _TENANTS),)
