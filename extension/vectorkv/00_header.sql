-- Run by CREATE EXTENSION; a psql that reads this file stops here.
\echo Use "CREATE EXTENSION vectorkv" to load this file. \quit

-- Whoever owns the schema could add functions that are found in place of these.
DO $$ BEGIN
	IF EXISTS (SELECT FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
		WHERE n.nspname = 'kv' AND NOT r.rolsuper AND r.rolname <> current_user) THEN
		RAISE EXCEPTION 'schema "kv" exists and belongs to role "%"', (SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'kv')
			USING ERRCODE = 'insufficient_privilege', HINT = 'Drop the schema: what it holds could be taken for the functions of the extension.';
	END IF;
END $$;

GRANT USAGE ON SCHEMA kv TO PUBLIC;

