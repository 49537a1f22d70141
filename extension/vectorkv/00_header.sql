-- Run by CREATE EXTENSION; a psql that reads this file stops here.
\echo Use "CREATE EXTENSION vectorkv" to load this file. \quit

-- Whoever may add functions to the schema, or has, could have his found in place of these.  That goes for this block too, and for the schema
-- of the type vector: an operator or function that fits the types exactly is taken before one of pg_catalog that would convert.
DO $$
DECLARE
	other record;
BEGIN
	SELECT s.what, CASE WHEN s.role OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'PUBLIC'
			ELSE pg_catalog.format('role "%s"', pg_catalog.pg_get_userbyid(s.role)) END AS role INTO other
	FROM (SELECT oid, nspowner, nspacl FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.=) 'kv') AS n, LATERAL (
		SELECT 'belongs to', n.nspowner
		UNION ALL SELECT 'may be added to by', a.grantee FROM pg_catalog.aclexplode(n.nspacl) AS a WHERE a.privilege_type OPERATOR(pg_catalog.=) 'CREATE'
		UNION ALL SELECT 'has functions of', f.proowner FROM pg_catalog.pg_proc f WHERE f.pronamespace OPERATOR(pg_catalog.=) n.oid
		UNION ALL SELECT 'has operators of', o.oprowner FROM pg_catalog.pg_operator o WHERE o.oprnamespace OPERATOR(pg_catalog.=) n.oid
		UNION ALL SELECT 'has types of', t.typowner FROM pg_catalog.pg_type t WHERE t.typnamespace OPERATOR(pg_catalog.=) n.oid) AS s (what, role)
	WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid OPERATOR(pg_catalog.=) s.role
		AND (r.rolsuper OR r.rolname OPERATOR(pg_catalog.=) current_user)) LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'schema "kv" exists and % %', other.what, other.role
			USING ERRCODE = 'insufficient_privilege', HINT = 'Drop the schema: what it holds could be taken for the functions of the extension.';
	END IF;
END $$;

GRANT USAGE ON SCHEMA kv TO PUBLIC;
