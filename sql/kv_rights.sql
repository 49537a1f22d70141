-- Whose operators, types and guards are used: not those of a search path that others fill, and not those that an earlier build made.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS vectorkv;
CREATE ROLE regress_kv_evil;
CREATE ROLE regress_kv_tenant;
CREATE SCHEMA evil AUTHORIZATION regress_kv_evil;

-- Operators and types of somebody else's, in front of PostgreSQL's own in the path of who makes caches and looks for neighbours.
SET ROLE regress_kv_evil;
DO $$
DECLARE
	known record;
	signature text;
BEGIN
	FOR known IN SELECT o.oprname, o.oprleft::regtype AS l, o.oprright::regtype AS r, o.oprresult::regtype AS result, row_number() OVER () AS i
		FROM pg_operator o JOIN pg_proc f ON f.oid = o.oprcode
		WHERE o.oprname IN ('=', '<', '>=', '+', '-', '*', '/', '@>') AND o.oprleft IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'oid'::regtype, 'text'::regtype, 'name'::regtype, 'anyarray'::regtype)
		AND o.oprright IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'oid'::regtype, 'text'::regtype, 'name'::regtype, 'anyarray'::regtype)
	LOOP
		EXECUTE format('CREATE FUNCTION evil.stolen_%s(a %s, b %s) RETURNS %s LANGUAGE plpgsql AS $f$ BEGIN RAISE ''stolen: %s''; END $f$', known.i, known.l, known.r, known.result, known.oprname);
		EXECUTE format('CREATE OPERATOR evil.%s (FUNCTION = evil.stolen_%s, LEFTARG = %s, RIGHTARG = %s)', known.oprname, known.i, known.l, known.r);
	END LOOP;
	FOREACH signature IN ARRAY ARRAY['bytea', 'oid', 'text', 'name'] LOOP
		EXECUTE format('CREATE DOMAIN evil.%I AS pg_catalog.%I NOT NULL', signature, signature);
	END LOOP;
END $$;
RESET ROLE;
CREATE FUNCTION of_evil(pattern text) RETURNS TABLE (found text) LANGUAGE sql SET search_path = pg_catalog AS $$
	SELECT DISTINCT pg_describe_object(d.classid, d.objid, 0) || ' needs ' || pg_describe_object(d.refclassid, d.refobjid, 0)
	FROM pg_depend d LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
	LEFT JOIN pg_policy p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
	WHERE coalesce(w.ev_class, p.polrelid, CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid END)::regclass::text ~ pattern AND (d.refclassid, d.refobjid) IN (
		SELECT 'pg_operator'::regclass, oid FROM pg_operator WHERE oprnamespace = 'evil'::regnamespace UNION ALL
		SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typnamespace = 'evil'::regnamespace UNION ALL
		SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace = 'evil'::regnamespace) $$;
CREATE TABLE items (id int, embedding vector(2));
CREATE VIEW seen AS SELECT ctid, id, embedding FROM items;
INSERT INTO items VALUES (1, '[1,2]'), (2, '[3,4]');
CREATE FUNCTION ones(tokens int) RETURNS kv.tensor LANGUAGE sql SET search_path = pg_catalog AS
	$$ SELECT kv."cast"(kv.reshape(array_fill(1::real, ARRAY[2 * 2 * tokens * 16])::kv.tensor, ARRAY[2, 2, tokens, 16]), 'f16') $$;

SET search_path = evil, pg_catalog, public;
SELECT kv.create_cache('public.chat', 2, 4, 2, 16, tail_tokens => 8);
SELECT kv.enable_tenants('public.chat');
SELECT kv.append('public.chat', 1, public.ones(300), public.ones(300));
SELECT pg_catalog.sum(kv.tokens(tile)) FROM public.chat_tile;
SELECT kv.fork('public.chat', 1, 2, 100), kv.truncate('public.chat', 1, 150), kv.recode('public.chat', 1, 'int4'), kv.collect('public.chat'), kv.seal('public.chat', 2);
SELECT * FROM kv.check_cache('public.chat');
SELECT pg_catalog.count(*) FROM public.knn_exact('public.seen', 'embedding', '{"[1,1]"}'::public.vector[], 2);
RESET search_path;
SELECT * FROM of_evil('^public.chat');
-- Tables that are adopted get the view anew.
BEGIN;
DELETE FROM kv.caches WHERE cache = 'chat'::regclass;
SET LOCAL search_path = evil, pg_catalog, public;
SELECT kv.adopt_cache('public.chat', 2, 4, 2, 16, tail_tokens => 8);
SET LOCAL search_path = public;
SELECT * FROM of_evil('^public.chat');
SELECT seq, sum(kv.tokens(tile)) FROM chat_tile GROUP BY seq ORDER BY seq;
ROLLBACK;

-- What an earlier build made of tenants: fewer guards, another policy. kv.enable_tenants once more brings it up to date.
CREATE VIEW made AS
	SELECT tgrelid::regclass AS t, tgname AS name, pg_get_triggerdef(oid) AS what FROM pg_trigger WHERE tgrelid::regclass::text ~ '^chat' AND NOT tgisinternal UNION ALL
	SELECT polrelid::regclass, polname, concat_ws(' ', polcmd, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)) FROM pg_policy WHERE polrelid::regclass::text ~ '^chat' UNION ALL
	SELECT indrelid::regclass, 'index', indkey::text FROM pg_index WHERE indrelid::regclass::text ~ '^chat';
CREATE TABLE made_first AS SELECT * FROM made;
SELECT t, name FROM made_first WHERE name <> 'index' ORDER BY t::text, name;
GRANT SELECT, INSERT, UPDATE, DELETE ON chat TO regress_kv_tenant;
GRANT SELECT, INSERT, DELETE ON chat_tail TO regress_kv_tenant;
GRANT SELECT, INSERT ON chat_sealed TO regress_kv_tenant;
DROP TRIGGER guard_header ON chat;
CREATE TRIGGER guard_header BEFORE INSERT OR UPDATE OF extents, stops ON chat FOR EACH ROW EXECUTE FUNCTION kv.guard_header();
DROP TRIGGER guard_rows ON chat_sealed;
DROP TRIGGER guard_rows ON chat_tail;
DROP POLICY tenant_sees ON chat_sealed;
CREATE POLICY tenant_sees ON chat_sealed USING (true);
SET ROLE regress_kv_tenant;
INSERT INTO chat (seq) VALUES (3);
SELECT kv.append('chat', 3, ones(3), ones(3));
BEGIN;
UPDATE chat SET length = 2;
ROLLBACK;
SELECT count(*) > 0 AS sees_what_is_not_his FROM chat_sealed;
RESET ROLE;
SELECT kv.enable_tenants('chat');
SELECT * FROM (SELECT * FROM made EXCEPT ALL SELECT * FROM made_first) x UNION ALL (SELECT * FROM made_first EXCEPT ALL SELECT * FROM made);
SET ROLE regress_kv_tenant;
UPDATE chat SET length = 2;
SELECT count(*) > 0 AS sees_what_is_not_his FROM chat_sealed;
SELECT kv.append('chat', 3, ones(300), ones(300));
SELECT * FROM kv.check_cache('chat');
RESET ROLE;
-- Another column, another tenant: the policies follow, nobody keeps what the column before gave him.
SELECT kv.enable_tenants('chat', 'customer', $$current_setting('app.customer', true)$$);
SELECT count(*) FROM pg_policy WHERE polrelid::regclass::text ~ '^chat';
SET ROLE regress_kv_tenant;
SELECT count(*) FROM chat;
RESET ROLE;

SELECT kv.drop_cache('chat');
DROP VIEW made, seen;
DROP TABLE made_first, items;
DROP FUNCTION of_evil, ones;
SET client_min_messages = error;
DROP SCHEMA evil CASCADE;
DROP ROLE regress_kv_evil, regress_kv_tenant;
