-- Run by CREATE EXTENSION; a psql that reads this file stops here.
\echo Use "CREATE EXTENSION vectorkv" to load this file. \quit

-- Whoever may add functions to the schema, or has, could have his found in place of these.
DO $$
DECLARE
	other record;
BEGIN
	SELECT what, CASE WHEN role = 0 THEN 'PUBLIC' ELSE format('role "%s"', pg_get_userbyid(role)) END AS role INTO other FROM (
		SELECT 'belongs to', nspowner FROM pg_namespace WHERE nspname = 'kv'
		UNION ALL SELECT 'may be added to by', a.grantee FROM pg_namespace, aclexplode(nspacl) a WHERE nspname = 'kv' AND a.privilege_type = 'CREATE'
		UNION ALL SELECT 'has functions of', proowner FROM pg_proc WHERE pronamespace = 'kv'::regnamespace
		UNION ALL SELECT 'has operators of', oprowner FROM pg_operator WHERE oprnamespace = 'kv'::regnamespace
		UNION ALL SELECT 'has types of', typowner FROM pg_type WHERE typnamespace = 'kv'::regnamespace) AS s (what, role)
	WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = role AND (r.rolsuper OR r.rolname = current_user)) LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'schema "kv" exists and % %', other.what, other.role
			USING ERRCODE = 'insufficient_privilege', HINT = 'Drop the schema: what it holds could be taken for the functions of the extension.';
	END IF;
END $$;

GRANT USAGE ON SCHEMA kv TO PUBLIC;

