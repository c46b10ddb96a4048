# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations from 70 on of the sending API's schema: what others report about the domain (pure)."""

from __future__ import annotations

from ..directory.schema import Migration

_REPORTS = r"""
-- The web service has no right to the reports themselves: it sees what these say of its domain.
CREATE FUNCTION api.dmarc_sources() RETURNS TABLE (
    source text, messages bigint, failed bigint, reporters text[], dkim text[], spf text[], last timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT host(s.source_ip), s.messages::bigint, s.failed::bigint, s.reporters, coalesce(s.dkim, '{}'),
           coalesce(s.spf, '{}'), s.last
      FROM reports.dmarc_sources AS s WHERE s.domain = current_setting('api.domain', true)
     ORDER BY s.failed DESC, s.messages DESC, s.source_ip LIMIT 1000
$body$;
CREATE FUNCTION api.tls_sessions() RETURNS TABLE (policy text, successful bigint, failed bigint)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT t.policy_type, sum(t.successful)::bigint, sum(t.failed)::bigint
      FROM reports.tls AS t JOIN reports.report AS r ON r.id = t.report
     WHERE t.domain = current_setting('api.domain', true) AND r.authenticated
       AND r.received_at > now() - interval '30 days'
     GROUP BY t.policy_type ORDER BY t.policy_type
$body$;
CREATE FUNCTION api.tls_failures() RETURNS TABLE (
    policy text, result text, host text, sessions bigint, reason text, reporters text[], last timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT f.policy_type, f.result_type, f.receiving_host, f.sessions::bigint, f.reason, f.reporters, f.last
      FROM reports.tls_failures AS f WHERE f.domain = current_setting('api.domain', true)
     ORDER BY f.sessions DESC, f.result_type, f.receiving_host LIMIT 1000
$body$;
REVOKE ALL ON FUNCTION api.dmarc_sources(), api.tls_sessions(), api.tls_failures() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION api.dmarc_sources(), api.tls_sessions(), api.tls_failures() TO mailwright_api;
"""

MIGRATIONS: tuple[Migration, ...] = (Migration(70, "sending API: reports on DMARC and TLS", _REPORTS),)
