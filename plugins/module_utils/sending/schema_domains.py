# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations 65 to 69 of the sending API's schema: domains that tenants bring onto the host (pure)."""

from __future__ import annotations

from ..directory.schema import Migration

_CLAIMS = r"""
-- Who says that a name is his. Anybody may say so of any name, so nobody keeps it from its owner; one at most has
-- proved it. pending: the proof is looked for in the DNS until that time. verified: it was seen, and the host makes
-- ready to sign. active: hosted. blocked: see problem. leaving: given up, and signing is still to end.
CREATE TABLE api.domain_claim (
    name text NOT NULL,
    tenant text NOT NULL,
    token text NOT NULL,
    state text NOT NULL DEFAULT 'pending'
        CHECK (state IN ('pending', 'verified', 'active', 'blocked', 'expired', 'leaving')),
    problem text NOT NULL DEFAULT '',
    selector text,
    dkim text,
    seen jsonb NOT NULL DEFAULT '{}',
    claimed_at timestamptz NOT NULL DEFAULT now(),
    until timestamptz NOT NULL DEFAULT now() + interval '7 days',
    look_at timestamptz DEFAULT now() + interval '5 minutes',
    looked_at timestamptz,
    PRIMARY KEY (name, tenant)
);
CREATE UNIQUE INDEX domain_claim_proved ON api.domain_claim (name) WHERE state IN ('verified', 'active');

-- Whose a domain is, or was last: a tenant's by the API, or the inventory's (''). until is when that ended.
CREATE TABLE api.domain_holder (
    name text PRIMARY KEY,
    tenant text NOT NULL,
    until timestamptz
);
INSERT INTO api.domain_holder (name, tenant) SELECT d.name, '' FROM directory.domain AS d;

CREATE FUNCTION api.keep_holder() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO api.domain_holder AS h (name, tenant) VALUES (NEW.name, '')
        ON CONFLICT (name) DO UPDATE SET tenant = '', until = NULL;
    ELSE
        UPDATE api.domain_holder AS h SET until = now() WHERE h.name = OLD.name;
    END IF;
    RETURN NULL;
END
$body$;
CREATE TRIGGER keep_holder_insert AFTER INSERT ON directory.domain
    FOR EACH ROW WHEN (NEW.owner = 'inventory') EXECUTE FUNCTION api.keep_holder();
CREATE TRIGGER keep_holder_delete AFTER DELETE ON directory.domain FOR EACH ROW EXECUTE FUNCTION api.keep_holder();

-- The tenant whose key asks; none, where it is a domain's own key.
CREATE FUNCTION api.acting_tenant() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT k.tenant FROM api.tenant_key AS k WHERE k.id = current_setting('api.actor', true)
    UNION ALL
    SELECT k.tenant FROM api.member_key AS k WHERE k.id = current_setting('api.actor', true)
$body$;

-- The web service has no right to the tables: these four are all it can do, each for the tenant whose key asks.
CREATE FUNCTION api.claims() RETURNS TABLE (
    name text, state text, problem text, token text, selector text, dkim text, seen jsonb, claimed_at timestamptz,
    until timestamptz, looked_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT c.name, c.state, c.problem, c.token, c.selector, c.dkim, c.seen, c.claimed_at, c.until, c.looked_at
      FROM api.domain_claim AS c WHERE c.tenant = api.acting_tenant() AND c.state <> 'leaving' ORDER BY c.name
$body$;

-- Gives what came of it: made, known (as before), or why not.
CREATE FUNCTION api.claim_domain(name text, token text, most integer) RETURNS text
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    own text := api.acting_tenant();
BEGIN
    IF own IS NULL THEN
        RETURN 'not_a_tenant';
    END IF;
    -- claims of a tenant take turns, so that their number is right
    PERFORM pg_advisory_xact_lock(hashtext('api.domain_claim'), hashtext(own));
    IF EXISTS (SELECT FROM api.domain_claim AS c WHERE c.name = claim_domain.name AND c.tenant = own
                  AND c.state NOT IN ('expired', 'leaving')) THEN
        RETURN 'known';
    ELSIF EXISTS (SELECT FROM directory.domain AS d WHERE d.name = claim_domain.name AND d.owner = 'inventory') THEN
        RETURN 'owned_by_inventory';
    ELSIF EXISTS (SELECT FROM api.domain_claim AS c WHERE c.name = claim_domain.name
                     AND c.state IN ('verified', 'active')) THEN
        RETURN 'name_taken';
    ELSIF (SELECT count(*) FROM api.domain_claim AS c WHERE c.tenant = own
              AND c.state IN ('pending', 'blocked', 'expired')) >= most THEN
        RETURN 'too_many';
    END IF;
    DELETE FROM api.domain_claim AS c
     WHERE c.name = claim_domain.name AND c.tenant = own AND c.state IN ('expired', 'leaving');
    INSERT INTO api.domain_claim (name, tenant, token) VALUES (claim_domain.name, own, claim_domain.token);
    RETURN 'made';
END
$body$;

-- A look at the DNS soon, and what stood in the way is tried once more.
CREATE FUNCTION api.verify_claim(name text) RETURNS void
LANGUAGE sql VOLATILE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    UPDATE api.domain_claim AS c
       SET state = CASE WHEN c.state IN ('blocked', 'expired') THEN 'pending' ELSE c.state END,
           problem = '', until = now() + interval '7 days',
           look_at = greatest(now(), c.looked_at + interval '3 seconds')
     WHERE c.name = verify_claim.name AND c.tenant = api.acting_tenant() AND c.state <> 'leaving'
$body$;

-- What an active domain has from its first moment on: role addresses (RFC 2142) to the host's administrator, reports.
CREATE FUNCTION api.first_aliases(name text) RETURNS TABLE (address text)
LANGUAGE sql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT part || '@' || first_aliases.name FROM unnest(ARRAY['postmaster', 'abuse', 'mail-reports']) AS part
$body$;

-- Gives released, in_use, or nothing where the tenant has no such claim.
CREATE FUNCTION api.release_domain(name text) RETURNS text
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '10s'
AS $body$
DECLARE
    known text;
BEGIN
    -- as an apply takes them: what is looked up here still holds when it is written
    LOCK TABLE directory.domain, directory.mailbox, directory.alias, directory.sender IN SHARE ROW EXCLUSIVE MODE;
    SELECT c.state INTO known FROM api.domain_claim AS c
     WHERE c.name = release_domain.name AND c.tenant = api.acting_tenant() AND c.state <> 'leaving' FOR UPDATE;
    IF known = 'active' THEN
        -- accepted mail is sent, and signed, before the domain goes
        IF EXISTS (SELECT FROM directory.mailbox AS m WHERE m.domain = release_domain.name)
           OR EXISTS (SELECT FROM directory.alias AS a WHERE a.domain = release_domain.name
                         AND a.address NOT IN (SELECT f.address FROM api.first_aliases(release_domain.name) AS f))
           OR EXISTS (SELECT FROM api.recipient AS r WHERE r.domain = release_domain.name
                         AND r.status IN ('queued', 'sending')) THEN
            RETURN 'in_use';
        END IF;
        DELETE FROM directory.alias AS a WHERE a.domain = release_domain.name;
        DELETE FROM directory.domain AS d WHERE d.name = release_domain.name AND d.owner = 'api';
        DELETE FROM api.tenant_domain AS t WHERE t.domain = release_domain.name;
    END IF;
    IF known IN ('active', 'verified') THEN
        UPDATE api.domain_claim AS c SET state = 'leaving'
         WHERE c.name = release_domain.name AND c.tenant = api.acting_tenant();
    ELSE
        DELETE FROM api.domain_claim AS c WHERE c.name = release_domain.name AND c.tenant = api.acting_tenant()
           AND c.state <> 'leaving';
    END IF;
    RETURN CASE WHEN known IS NOT NULL THEN 'released' END;
END
$body$;

-- What the service with a network saw. The token fences off a claim that was made anew meanwhile.
CREATE FUNCTION api.note_look(name text, token text, proved boolean, seen jsonb, problem text) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    taken boolean := EXISTS (SELECT FROM api.domain_claim AS c WHERE c.name = note_look.name
                                AND c.token <> note_look.token AND c.state IN ('verified', 'active'))
                  OR EXISTS (SELECT FROM directory.domain AS d WHERE d.name = note_look.name AND d.owner = 'inventory');
BEGIN
    UPDATE api.domain_claim AS c SET looked_at = now(), look_at = NULL, seen = note_look.seen
     WHERE c.name = note_look.name AND c.token = note_look.token;
    UPDATE api.domain_claim AS c
       SET state = CASE WHEN proved AND taken THEN 'blocked' WHEN proved THEN 'verified'
                        WHEN c.until < now() THEN 'expired' ELSE 'pending' END,
           problem = CASE WHEN proved AND taken THEN 'The domain is hosted here for somebody else.'
                          WHEN proved THEN '' ELSE note_look.problem END,
           look_at = CASE WHEN NOT proved AND c.until >= now() THEN now() + interval '5 minutes' END
     WHERE c.name = note_look.name AND c.token = note_look.token AND c.state = 'pending';
END
$body$;

-- Which tables still have something of the domain: whoever has it next would see that.
CREATE FUNCTION api.domain_rests(name text) RETURNS SETOF text
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    place text;
    found_one boolean;
BEGIN
    -- destination has receivers' domains; a limit and a tenant are the operator's own words
    FOR place IN SELECT t.relname FROM pg_class AS t JOIN pg_attribute AS a ON a.attrelid = t.oid
                  WHERE t.relnamespace = 'api'::regnamespace AND t.relkind = 'r' AND a.attname = 'domain'
                    AND t.relname NOT IN ('destination', 'domain_limit', 'tenant_domain') ORDER BY 1 LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM api.%I WHERE domain = $1)', place) INTO found_one USING name;
        IF found_one THEN
            RETURN NEXT place;
        END IF;
    END LOOP;
    IF EXISTS (SELECT FROM directory.quota_usage AS u WHERE split_part(u.address, '@', 2) = domain_rests.name) THEN
        RETURN NEXT 'quota_usage';
    END IF;
    IF EXISTS (SELECT FROM reports.dmarc AS d WHERE d.domain = domain_rests.name)
       OR EXISTS (SELECT FROM reports.tls AS t WHERE t.domain = domain_rests.name) THEN
        RETURN NEXT 'reports';
    END IF;
END
$body$;

-- For the host's administrator alone, so that somebody else can have the domain. The audit log keeps its entries, under
-- a name that no domain has.
CREATE FUNCTION api.forget_domain(name text) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    place text;
BEGIN
    IF EXISTS (SELECT FROM directory.domain AS d WHERE d.name = forget_domain.name) THEN
        RAISE EXCEPTION '% is hosted here', name;
    END IF;
    FOR place IN SELECT r.place FROM api.domain_rests(name) AS r (place)
                  WHERE r.place NOT IN ('audit', 'quota_usage', 'reports') LOOP
        EXECUTE format('DELETE FROM api.%I WHERE domain = $1', place) USING name;
    END LOOP;
    DELETE FROM directory.quota_usage AS u WHERE split_part(u.address, '@', 2) = forget_domain.name;
    DELETE FROM reports.dmarc AS d WHERE d.domain = forget_domain.name;
    DELETE FROM reports.tls AS t WHERE t.domain = forget_domain.name;
    UPDATE api.audit AS a SET domain = a.domain || ' until ' || now() WHERE a.domain = forget_domain.name;
    DELETE FROM api.domain_holder AS h WHERE h.name = forget_domain.name;
END
$body$;

-- Claims that came to nothing are nobody's to see but the administrator's: they have no domain.
CREATE FUNCTION api.note_claim() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $body$
DECLARE
    hidden text[] := ARRAY['seen', 'look_at', 'looked_at', 'until'];
    earlier jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) - hidden END;
    later jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) - hidden END;
    known jsonb := coalesce(later, earlier);
BEGIN
    INSERT INTO api.audit (domain, actor, action, kind, target, before, after)
    VALUES (CASE WHEN 'active' IN (coalesce(earlier ->> 'state', ''), coalesce(later ->> 'state', ''))
                 THEN known ->> 'name' ELSE '' END,
            coalesce('key ' || nullif(current_setting('api.actor', true), ''), session_user::text),
            CASE TG_OP WHEN 'INSERT' THEN 'created' WHEN 'UPDATE' THEN 'changed' ELSE 'removed' END,
            'domain', known ->> 'name', earlier, later);
    RETURN NULL;
END
$body$;
CREATE TRIGGER note AFTER INSERT OR DELETE OR UPDATE OF state ON api.domain_claim
    FOR EACH ROW EXECUTE FUNCTION api.note_claim();

GRANT SELECT ON api.domain_claim TO mailwright_webhooks;
-- A new tenant of the API is not taken for an earlier one of its name, which may have had domains: what an operator's
-- tenant leaves is under a name that no tenant has, and the name of one that left the inventory is not free.
CREATE FUNCTION api.end_tenant() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    UPDATE api.domain_claim AS c SET state = 'leaving' WHERE c.tenant = OLD.name AND c.state = 'verified';
    DELETE FROM api.domain_claim AS c WHERE c.tenant = OLD.name AND c.state IN ('pending', 'blocked', 'expired');
    UPDATE api.domain_holder AS h SET tenant = h.tenant || ' until ' || now() WHERE h.tenant = OLD.name;
    RETURN NULL;
END
$body$;
CREATE TRIGGER end_tenant AFTER DELETE ON api.tenant
    FOR EACH ROW WHEN (OLD.owner = 'api') EXECUTE FUNCTION api.end_tenant();
CREATE FUNCTION api.begin_tenant() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF EXISTS (SELECT FROM api.domain_holder AS h WHERE h.tenant = NEW.name)
       OR EXISTS (SELECT FROM api.domain_claim AS c WHERE c.tenant = NEW.name) THEN
        RAISE EXCEPTION 'a tenant of this name had domains' USING ERRCODE = 'unique_violation';
    END IF;
    RETURN NEW;
END
$body$;
CREATE TRIGGER begin_tenant BEFORE INSERT ON api.tenant
    FOR EACH ROW WHEN (NEW.owner = 'api') EXECUTE FUNCTION api.begin_tenant();

REVOKE ALL ON FUNCTION api.end_tenant(), api.begin_tenant() FROM PUBLIC;
REVOKE ALL ON FUNCTION api.keep_holder(), api.acting_tenant(), api.claims(), api.claim_domain(text, text, integer),
    api.verify_claim(text), api.first_aliases(text), api.release_domain(text),
    api.note_look(text, text, boolean, jsonb, text), api.domain_rests(text), api.forget_domain(text), api.note_claim()
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION api.claims(), api.claim_domain(text, text, integer), api.verify_claim(text),
    api.release_domain(text) TO mailwright_api;
GRANT EXECUTE ON FUNCTION api.note_look(text, text, boolean, jsonb, text) TO mailwright_webhooks;
"""

MIGRATIONS: tuple[Migration, ...] = (Migration(65, "sending API: domains that tenants bring", _CLAIMS),)
