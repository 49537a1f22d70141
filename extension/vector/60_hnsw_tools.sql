-- hnsw: looking at an index

-- Walks a whole index and reports what is wrong with it, a row for each problem; no row when it is sound. heap_all: also looks for rows of the
-- table that the index lacks. searches: also for vectors for which a query does not find a row of theirs, nor one as far, which takes
-- a search for each. Keeps writers out while it runs, for a role that may LOCK TABLE IN SHARE MODE. Needs the right to read the table, all rows of it.
CREATE FUNCTION hnsw_check(index regclass, heap_all boolean DEFAULT false, searches boolean DEFAULT false,
		OUT block bigint, OUT slot integer, OUT problem text)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

-- What an index is made of: parameters, counts, and bytes by kind of page. Needs the right to read the table, all rows of it.
CREATE FUNCTION hnsw_info(index regclass,
		OUT codec text, OUT type text, OUT distance text, OUT dimensions integer, OUT m integer, OUT ef_construction integer,
		OUT levels integer, OUT nodes bigint, OUT dead_nodes bigint, OUT free_slots bigint, OUT heap_tuples bigint,
		OUT node_bytes integer, OUT nodes_per_page integer,
		OUT total_bytes bigint, OUT bytes_nodes bigint, OUT bytes_upper bigint, OUT bytes_tids bigint, OUT bytes_payload bigint,
		OUT bytes_hash bigint, OUT bytes_model bigint, OUT model_bytes integer, OUT linked_by text)
	RETURNS record
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
