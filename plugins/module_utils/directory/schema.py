# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The directory's schema: forward-only migrations, each identified by its number and the SHA-256 of its text.

A migration that has been released is never edited: the next change is a new entry at the end of MIGRATIONS.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class SchemaError(Exception):
    """The database's schema is not one that this code may touch."""


class Migration(NamedTuple):
    """One step of the schema: its number (from 1, without gaps), a title for the plan, and the SQL text."""

    version: int
    title: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the SQL text, in hexadecimal."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


_FIRST = r"""
CREATE SCHEMA directory;

CREATE TABLE directory.schema_version (
    version integer PRIMARY KEY,
    title text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE directory.domain (
    name text PRIMARY KEY,
    enabled boolean NOT NULL DEFAULT true,
    owner text NOT NULL CHECK (owner IN ('inventory', 'api'))
);

CREATE TABLE directory.mailbox (
    address text PRIMARY KEY,
    domain text NOT NULL REFERENCES directory.domain (name),
    local_part text NOT NULL,
    display_name text NOT NULL DEFAULT '',
    password text NOT NULL CHECK (password LIKE '{%}_%'),
    inventory_password text,
    quota_bytes bigint NOT NULL DEFAULT 0 CHECK (quota_bytes >= 0),
    enabled boolean NOT NULL DEFAULT true,
    owner text NOT NULL CHECK (owner IN ('inventory', 'api')),
    CHECK (address = local_part || '@' || domain)
);
-- Removing a domain looks for its mailboxes by the foreign key.
CREATE INDEX mailbox_domain ON directory.mailbox (domain);

CREATE TABLE directory.alias (
    address text NOT NULL,
    destination text NOT NULL,
    domain text NOT NULL,
    owner text NOT NULL CHECK (owner IN ('inventory', 'api')),
    PRIMARY KEY (address, destination)
);

CREATE TABLE directory.sender (
    address text NOT NULL,
    login text NOT NULL,
    owner text NOT NULL CHECK (owner IN ('inventory', 'api')),
    PRIMARY KEY (address, login)
);

-- Written by Dovecot's quota_clone, which knows nothing of mailbox: hence no foreign key.
CREATE TABLE directory.quota_usage (
    address text PRIMARY KEY,
    bytes bigint NOT NULL DEFAULT 0,
    messages bigint NOT NULL DEFAULT 0
);

-- True when the password was replaced; false for an unknown or disabled mailbox and for anything but the two kinds of
-- hash that webmail makes. The bounds on Argon2's cost keep a caller from making every later log-in exhaust memory.
CREATE FUNCTION directory.change_password(address text, new_hash text) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF change_password.new_hash !~ ('^\{ARGON2ID\}\$argon2id\$v=19\$m=\d{1,6},t=\d{1,2},p=\d{1,2}'
                                    '\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{22,171}$')
       AND change_password.new_hash !~ '^\{BLF-CRYPT\}\$2y\$(0[4-9]|1[0-6])\$[./A-Za-z0-9]{53}$' THEN
        RETURN false;
    END IF;
    UPDATE directory.mailbox AS mailbox
       SET password = change_password.new_hash
      FROM directory.domain AS domain
     WHERE mailbox.address = lower(change_password.address)
       AND mailbox.enabled
       AND domain.name = mailbox.domain
       AND domain.enabled;
    RETURN FOUND;
END
$body$;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE ALL ON FUNCTION directory.change_password(text, text) FROM PUBLIC;
GRANT USAGE ON SCHEMA directory TO postfix, dovecot, roundcube;
GRANT SELECT ON directory.domain, directory.alias, directory.sender TO postfix;
GRANT SELECT (address, domain, enabled) ON directory.mailbox TO postfix;
GRANT SELECT ON directory.domain TO dovecot;
GRANT SELECT (address, domain, password, quota_bytes, enabled) ON directory.mailbox TO dovecot;
GRANT SELECT, INSERT, UPDATE, DELETE ON directory.quota_usage TO dovecot;
GRANT EXECUTE ON FUNCTION directory.change_password(text, text) TO roundcube;
"""

_REPORTS = r"""
CREATE SCHEMA reports;

CREATE TABLE reports.report (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('dmarc', 'tls')),
    -- the domain of the message's From header, and whether DMARC or DKIM proved it
    sender_domain text NOT NULL,
    authenticated boolean NOT NULL,
    digest text NOT NULL,
    reporter text NOT NULL,
    contact text NOT NULL,
    report_id text NOT NULL,
    period_begin timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    UNIQUE (sender_domain, digest)
);
CREATE INDEX report_received_at ON reports.report (received_at);

CREATE TABLE reports.dmarc (
    report bigint NOT NULL REFERENCES reports.report (id) ON DELETE CASCADE,
    domain text NOT NULL,
    source_ip inet NOT NULL,
    messages bigint NOT NULL,
    disposition text NOT NULL,
    dkim_aligned boolean NOT NULL,
    spf_aligned boolean NOT NULL,
    header_from text NOT NULL,
    envelope_from text NOT NULL,
    dkim_results text[] NOT NULL,
    spf_results text[] NOT NULL
);
CREATE INDEX dmarc_report ON reports.dmarc (report);

CREATE TABLE reports.tls (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    report bigint NOT NULL REFERENCES reports.report (id) ON DELETE CASCADE,
    domain text NOT NULL,
    policy_type text NOT NULL,
    successful bigint NOT NULL,
    failed bigint NOT NULL
);
CREATE INDEX tls_report ON reports.tls (report);

CREATE TABLE reports.tls_failure (
    tls bigint NOT NULL REFERENCES reports.tls (id) ON DELETE CASCADE,
    result_type text NOT NULL,
    sending_ip inet,
    receiving_host text NOT NULL,
    receiving_ip inet,
    sessions bigint NOT NULL,
    reason text NOT NULL
);
CREATE INDEX tls_failure_tls ON reports.tls_failure (tls);

-- Messages that hold no report, or not one about a domain of ours; the message is the file of that name.
CREATE TABLE reports.aside (
    file text PRIMARY KEY,
    received_at timestamptz NOT NULL,
    sender_domain text NOT NULL,
    reason text NOT NULL
);

-- What people read: the last 30 days, the worst first.
CREATE VIEW reports.dmarc_sources AS
SELECT d.domain, d.source_ip, sum(d.messages) AS messages,
       coalesce(sum(d.messages) FILTER (WHERE NOT d.dkim_aligned AND NOT d.spf_aligned), 0) AS failed,
       array_agg(DISTINCT r.reporter) AS reporters, array_agg(DISTINCT d.dkim_results) AS dkim,
       array_agg(DISTINCT d.spf_results) AS spf, max(r.period_end) AS last
  FROM reports.dmarc d JOIN reports.report r ON r.id = d.report
 WHERE r.authenticated AND r.received_at > now() - interval '30 days'
 GROUP BY d.domain, d.source_ip
 ORDER BY failed DESC, messages DESC;

CREATE VIEW reports.tls_failures AS
SELECT t.domain, t.policy_type, f.result_type, f.receiving_host, sum(f.sessions) AS sessions, f.reason,
       array_agg(DISTINCT r.reporter) AS reporters, max(r.period_end) AS last
  FROM reports.tls_failure f JOIN reports.tls t ON t.id = f.tls JOIN reports.report r ON r.id = t.report
 WHERE r.authenticated AND r.received_at > now() - interval '30 days'
 GROUP BY t.domain, t.policy_type, f.result_type, f.receiving_host, f.reason
 ORDER BY sessions DESC;

GRANT USAGE ON SCHEMA directory, reports TO reports;
GRANT SELECT (name) ON directory.domain TO reports;
GRANT SELECT, INSERT, DELETE ON ALL TABLES IN SCHEMA reports TO reports;
REVOKE INSERT, DELETE ON reports.dmarc_sources, reports.tls_failures FROM reports;
"""

_SOURCES = r"""
-- As before, whatever the number of results: arrays of different lengths, and empty ones, cannot be gathered in one.
CREATE OR REPLACE VIEW reports.dmarc_sources AS
SELECT d.domain, d.source_ip, sum(d.messages) AS messages,
       coalesce(sum(d.messages) FILTER (WHERE NOT d.dkim_aligned AND NOT d.spf_aligned), 0) AS failed,
       array_agg(DISTINCT r.reporter) AS reporters,
       array_agg(DISTINCT array_to_string(d.dkim_results, ' ')) FILTER (WHERE d.dkim_results <> '{}') AS dkim,
       array_agg(DISTINCT array_to_string(d.spf_results, ' ')) FILTER (WHERE d.spf_results <> '{}') AS spf,
       max(r.period_end) AS last
  FROM reports.dmarc d JOIN reports.report r ON r.id = d.report
 WHERE r.authenticated AND r.received_at > now() - interval '30 days'
 GROUP BY d.domain, d.source_ip
 ORDER BY failed DESC, messages DESC;
"""

MIGRATIONS: tuple[Migration, ...] = (
    Migration(1, "domains, mailboxes, aliases, senders", _FIRST),
    Migration(2, "reports on DMARC and TLS", _REPORTS),
    Migration(3, "reports on DMARC: sources with any number of results", _SOURCES),
)


def pending(
    applied: Mapping[int, str], migrations: Sequence[Migration] = MIGRATIONS, name: str = "directory"
) -> list[Migration]:
    """The migrations of the schema of this name that are still to run, oldest first.

    applied maps the versions in its table schema_version to their checksums.
    Raises SchemaError when the database is newer than the code, has a gap, or was made by another text.
    """
    known = {migration.version: migration for migration in migrations}
    newer = sorted(set(applied) - set(known))
    if newer:
        raise SchemaError(
            f"{name} schema: the database is at version {newer[-1]}, this collection knows {max(known)} at most. "
            "Use the collection's version that made it, or a newer one; schemas never go back."
        )
    for version, checksum in sorted(applied.items()):
        if checksum != known[version].checksum:
            raise SchemaError(
                f"{name} schema: version {version} in the database has checksum {checksum}, in this collection "
                f"{known[version].checksum}. A released migration must not change: use an unmodified collection."
            )
    todo = [migration for migration in migrations if migration.version not in applied]
    if applied and todo and todo[0].version < max(applied):
        raise SchemaError(
            f"{name} schema: the database is at version {max(applied)} but never got version {todo[0].version}. "
            f"Restore {name}.schema_version from the backup; migrations run in order only."
        )
    return todo
