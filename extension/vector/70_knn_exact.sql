
-- exact search

-- The k rows of a table nearest to each query, exactly and without an index: those that ORDER BY with the operator of the metric gives, the same
-- distances, ties in order of source and id. Metrics: l2 (<->), inner_product (<#>), cosine (<=>), l1 (<+>). Column: vector or halfvec; NULLs are
-- not found. query counts from 1; id is the row's ctid in the table `source`.
CREATE FUNCTION knn_exact(rel regclass, col name, queries vector[], k integer, metric text DEFAULT 'l2',
		OUT query integer, OUT rank integer, OUT id tid, OUT distance double precision, OUT source regclass)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 100000;
