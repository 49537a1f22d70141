-- The extension owns what pgvector 0.8.7 owns, under the same names and with the same properties.
-- test/data/pgvector-objects.txt was read from the catalog of a server with pgvector 0.8.7, built from its public source; the lines of
-- each section are derived here in the same form from this server's catalog and compared.  Not compared: objects of ivfflat, which
-- this extension does not have, and the functions of our own that are named below.
LOAD '$libdir/vector';
\getenv abs_srcdir PG_ABS_SRCDIR
\set path :abs_srcdir '/test/data/pgvector-objects.txt'
\set objects `cat :'path'`
CREATE TEMP TABLE listed AS
  SELECT section, replace(line, 'public.', '') AS line
    FROM (SELECT line, (SELECT split_part(split_part(h, ':', 1), ' ', 2) || CASE WHEN h LIKE '## operator classes%' THEN ' classes' ELSE '' END
                          FROM unnest(lines[1:i]) WITH ORDINALITY AS p(h, n) WHERE h LIKE '## %' ORDER BY n DESC LIMIT 1) AS section
            FROM (SELECT regexp_split_to_array(:'objects', '\r?\n') AS lines) AS f, unnest(lines) WITH ORDINALITY AS t(line, i)
           WHERE line <> '' AND line NOT LIKE '#%') AS t
   WHERE line NOT LIKE '%ivfflat%';

CREATE TEMP TABLE ours (name text);
INSERT INTO ours VALUES ('hnsw_check'), ('hnsw_info'), ('knn_exact');

CREATE TEMP VIEW member AS
  SELECT classid, objid FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
     AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'vector');
CREATE FUNCTION pg_temp.function_text(regproc) RETURNS text LANGUAGE sql AS $$
  SELECT CASE WHEN $1 = 0 THEN '-' ELSE (SELECT proname FROM pg_proc WHERE oid = $1) END
$$;
CREATE FUNCTION pg_temp.operator_text(oid) RETURNS text LANGUAGE sql AS $$
  SELECT CASE WHEN $1 = 0 THEN '0' ELSE (SELECT oprname FROM pg_operator WHERE oid = $1) END
$$;
CREATE FUNCTION pg_temp.flag(boolean) RETURNS text LANGUAGE sql AS $$ SELECT CASE WHEN $1 THEN 't' ELSE 'f' END $$;

CREATE TEMP VIEW present (section, line) AS
  SELECT 'types', concat_ws(' | ', typname, typlen, typalign, typstorage, pg_temp.function_text(typmodin), pg_temp.function_text(typmodout), pg_temp.function_text(typinput),
      pg_temp.function_text(typoutput), pg_temp.function_text(typreceive), pg_temp.function_text(typsend), typarray::regtype::oid::text, typcategory)
    FROM pg_type JOIN member ON classid = 'pg_type'::regclass AND objid = pg_type.oid WHERE typelem = 0
UNION ALL
  SELECT 'functions', concat_ws(' | ', format('%s(%s)', proname, pg_get_function_identity_arguments(p.oid)), pg_get_function_result(p.oid), prokind, provolatile,
      pg_temp.flag(proisstrict), proparallel, prosrc)
    FROM pg_proc AS p JOIN member ON classid = 'pg_proc'::regclass AND objid = p.oid WHERE proname NOT IN (SELECT name FROM ours)
UNION ALL
  SELECT 'aggregates', concat_ws(' | ', format('%s(%s)', proname, pg_get_function_identity_arguments(p.oid)), pg_temp.function_text(aggtransfn),
      pg_temp.function_text(aggcombinefn), pg_temp.function_text(aggfinalfn), pg_temp.function_text(aggserialfn), pg_temp.function_text(aggdeserialfn),
      format_type(aggtranstype, NULL), coalesce(agginitval, ''))
    FROM pg_aggregate JOIN pg_proc AS p ON p.oid = aggfnoid JOIN member ON classid = 'pg_proc'::regclass AND objid = p.oid
UNION ALL
  SELECT 'operators', concat_ws(' | ', format('%s %s %s', format_type(oprleft, NULL), oprname, format_type(oprright, NULL)), pg_temp.function_text(oprcode),
      pg_temp.operator_text(oprcom), pg_temp.operator_text(oprnegate), pg_temp.function_text(oprrest), pg_temp.function_text(oprjoin),
      pg_temp.flag(oprcanmerge), pg_temp.flag(oprcanhash))
    FROM pg_operator AS o JOIN member ON classid = 'pg_operator'::regclass AND objid = o.oid
UNION ALL
  SELECT 'casts', concat_ws(' | ', format('%s -> %s', format_type(castsource, NULL), format_type(casttarget, NULL)),
      format('%s(%s)', proname, replace(pg_get_function_identity_arguments(p.oid), ', ', ',')), castcontext)
    FROM pg_cast AS c JOIN member ON classid = 'pg_cast'::regclass AND objid = c.oid JOIN pg_proc AS p ON p.oid = castfunc
UNION ALL
  SELECT 'operator classes', concat_ws(' | ', amname, opcname, format_type(opcintype, NULL), pg_temp.flag(opcdefault))
    FROM pg_opclass AS o JOIN member ON classid = 'pg_opclass'::regclass AND objid = o.oid JOIN pg_am ON pg_am.oid = opcmethod
UNION ALL
  SELECT 'settings', concat_ws(' | ', name, boot_val, coalesce(min_val, ''), coalesce(max_val, ''), coalesce(enumvals::text, ''))
    FROM pg_settings WHERE name LIKE 'hnsw.%';

-- array types are named by their oid above, which is the name that counts; give it as the file does
CREATE TEMP TABLE found AS
  SELECT section, CASE WHEN section = 'types'
      THEN (SELECT string_agg(CASE WHEN n = 11 THEN (SELECT typname FROM pg_type WHERE oid = part::oid) ELSE part END, ' | ' ORDER BY n)
              FROM unnest(string_to_array(line, ' | ')) WITH ORDINALITY AS t(part, n))
      ELSE line END AS line
    FROM present;

-- the sections are there, so that an empty comparison means something
SELECT section, count(*) FROM listed WHERE section <> 'reloptions' GROUP BY section ORDER BY section COLLATE "C";
SELECT section, line AS missing_or_different FROM listed WHERE section <> 'reloptions' AND (section, rtrim(line)) NOT IN (SELECT section, rtrim(line) FROM found)
 ORDER BY 1, line COLLATE "C";
SELECT section, line AS extra_or_different FROM found WHERE (section, rtrim(line)) NOT IN (SELECT section, rtrim(line) FROM listed)
 ORDER BY 1, line COLLATE "C";

-- strategies and support functions of the B-tree classes
SELECT opcname, amopstrategy, amopopr::regoperator FROM pg_opclass JOIN pg_amop ON amopfamily = opcfamily JOIN pg_am ON pg_am.oid = opcmethod
 WHERE amname = 'btree' AND opcname IN ('vector_ops', 'halfvec_ops', 'sparsevec_ops') ORDER BY 1, 2;
SELECT opcname, amprocnum, amproc::regprocedure FROM pg_opclass JOIN pg_amproc ON amprocfamily = opcfamily JOIN pg_am ON pg_am.oid = opcmethod
 WHERE amname = 'btree' AND opcname IN ('vector_ops', 'halfvec_ops', 'sparsevec_ops') ORDER BY 1, 2;

-- every C function is one of this library (CREATE FUNCTION has checked that the symbols exist)
SELECT count(*) FROM pg_proc JOIN member ON classid = 'pg_proc'::regclass AND objid = pg_proc.oid
 WHERE prolang = (SELECT oid FROM pg_language WHERE lanname = 'c') AND probin <> '$libdir/vector';

-- what is left of ivfflat in a database that comes from pgvector says so clearly
CREATE FUNCTION ivfflathandler_left(internal) RETURNS index_am_handler AS '$libdir/vector', 'ivfflathandler' LANGUAGE c;
CREATE ACCESS METHOD ivfflat_left TYPE INDEX HANDLER ivfflathandler_left;
CREATE OPERATOR CLASS ivfflat_left_ops DEFAULT FOR TYPE vector USING ivfflat_left AS
	OPERATOR 1 <-> (vector, vector) FOR ORDER BY float_ops;
CREATE TABLE left_over (v vector(2));
CREATE INDEX ON left_over USING ivfflat_left (v);
CREATE INDEX ON left_over USING ivfflat_left (v) WITH (lists = 10);
DROP TABLE left_over;
DROP FUNCTION ivfflathandler_left CASCADE;
