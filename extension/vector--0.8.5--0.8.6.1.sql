-- From pgvector 0.8.5: its objects stay as they are, and serve; what this extension has beyond them follows.
\echo Use "ALTER EXTENSION vector UPDATE TO '0.8.6.1'" to load this file. \quit

CREATE FUNCTION hnsw_check(index regclass, heap_all boolean DEFAULT false,
		OUT block bigint, OUT slot integer, OUT problem text)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

-- What an index is made of: parameters, counts, and bytes by kind of page. Needs the right to read the table.
CREATE FUNCTION hnsw_info(index regclass,
		OUT codec text, OUT type text, OUT distance text, OUT dimensions integer, OUT m integer, OUT ef_construction integer,
		OUT levels integer, OUT nodes bigint, OUT dead_nodes bigint, OUT free_slots bigint, OUT heap_tuples bigint,
		OUT node_bytes integer, OUT nodes_per_page integer,
		OUT total_bytes bigint, OUT bytes_nodes bigint, OUT bytes_upper bigint, OUT bytes_tids bigint, OUT bytes_payload bigint,
		OUT bytes_hash bigint, OUT bytes_model bigint, OUT model_bytes integer)
	RETURNS record
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
