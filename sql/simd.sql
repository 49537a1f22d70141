-- vectorkv.simd: every level of this machine gives the answers of the scalar kernels.
-- Settings exist once the library is loaded.
LOAD '$libdir/vector';
SELECT name, enumvals, boot_val, context FROM pg_settings WHERE name = 'vectorkv.simd';
SET vectorkv.simd = 'sse9';
CREATE FUNCTION pg_temp.levels() RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
  level text;
  found text[] := '{}';
BEGIN
  FOREACH level IN ARRAY ARRAY['scalar', 'neon', 'avx2', 'avx512'] LOOP
    BEGIN
      PERFORM set_config('vectorkv.simd', level, false);
      found := found || level;
    EXCEPTION WHEN feature_not_supported THEN
      IF SQLERRM NOT LIKE format('%%no "%s" kernels', level) THEN RAISE; END IF;
    END;
  END LOOP;
  RESET vectorkv.simd;
  RETURN found;
END $$;
SELECT 'scalar' = ANY (pg_temp.levels()) AS scalar, cardinality(pg_temp.levels()) >= 1 AS some, NOT 'neon' = ANY (pg_temp.levels()) OR NOT 'avx2' = ANY (pg_temp.levels()) AS one_family;

CREATE TEMP TABLE simd_t AS
  SELECT n, (SELECT array_agg(sin(n * 131 + i * 1.7)::real ORDER BY i) FROM generate_series(1, n) AS i)::vector AS a,
         (SELECT array_agg(cos(n * 17 + i * 2.3)::real ORDER BY i) FROM generate_series(1, n) AS i)::vector AS b
    FROM (SELECT generate_series(1, 70) UNION ALL VALUES (127), (128), (383), (384), (385), (1536), (16000)) AS d(n);
CREATE FUNCTION pg_temp.answers() RETURNS TABLE (n int, k int, x float8, scale float8) LANGUAGE sql VOLATILE AS $$
  SELECT n, k, x, CASE WHEN k IN (3, 7) THEN 1 ELSE n END::float8 FROM simd_t,
    LATERAL (VALUES (1, a <-> b), (2, a <#> b), (3, a <=> b), (4, a <+> b),
                    (5, a::halfvec <-> b::halfvec), (6, a::halfvec <#> b::halfvec), (7, a::halfvec <=> b::halfvec), (8, a::halfvec <+> b::halfvec),
                    (9, binary_quantize(a) <~> binary_quantize(b)), (10, binary_quantize(a) <%> binary_quantize(b)),
                    (11, l2_norm(a::halfvec)), (12, vector_norm(a::halfvec::vector))) AS v(k, x)
$$;
CREATE FUNCTION pg_temp.disagreements(level text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  bad bigint;
BEGIN
  PERFORM set_config('vectorkv.simd', 'scalar', false);
  CREATE TEMP TABLE truth AS SELECT * FROM pg_temp.answers();
  PERFORM set_config('vectorkv.simd', level, false);
  SELECT count(*) INTO bad FROM truth AS t FULL JOIN pg_temp.answers() AS a USING (n, k)
    WHERE (abs(t.x - a.x) <= CASE WHEN k IN (9, 10) THEN 0 ELSE 1e-6 * greatest(t.scale, abs(t.x)) END) IS NOT TRUE;
  DROP TABLE truth;
  RESET vectorkv.simd;
  RETURN bad;
END $$;
SELECT sum(pg_temp.disagreements(level)) AS disagreements FROM unnest(pg_temp.levels()) AS level;
SHOW vectorkv.simd;
-- names under our prefix that do not exist
SET vectorkv.nonsense = 1;
