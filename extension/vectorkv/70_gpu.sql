-- The GPU helper: whether it runs, what it did, and for this session.

CREATE FUNCTION kv.gpu_status(OUT setting text, OUT state text, OUT reason text, OUT device text, OUT backend text, OUT pid int, OUT since timestamptz,
	OUT retry_at timestamptz, OUT restarts bigint, OUT last_error text, OUT memory bigint, OUT slots bigint, OUT slots_used bigint, OUT arena_bytes bigint,
	OUT arena_used bigint, OUT clients bigint, OUT tables bigint, OUT launch_ns bigint, OUT bytes_per_second bigint, OUT staging_per_second bigint) RETURNS record
	AS 'MODULE_PATHNAME', 'kv_gpu_status' LANGUAGE C VOLATILE PARALLEL RESTRICTED;

-- Sums over all helpers since the server was started, or since kv.reset_gpu_stats().
CREATE FUNCTION kv.gpu_counters(OUT requests bigint, OUT batches bigint, OUT average_batch float8, OUT launches bigint, OUT hits bigint, OUT misses bigint,
	OUT evictions bigint, OUT staged_bytes bigint, OUT read_bytes bigint, OUT queue_ms float8, OUT device_ms float8, OUT errors bigint, OUT dropped bigint,
	OUT answered bigint, OUT wait_ms float8, OUT fallbacks bigint, OUT on_cpu jsonb, OUT restarts bigint, OUT since timestamptz) RETURNS record
	AS 'MODULE_PATHNAME', 'kv_gpu_counters' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
CREATE VIEW kv.gpu_stats AS SELECT * FROM kv.gpu_counters();
GRANT SELECT ON kv.gpu_stats TO PUBLIC;

CREATE FUNCTION kv.reset_gpu_stats() RETURNS void
	AS 'MODULE_PATHNAME', 'kv_reset_gpu_stats' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
REVOKE ALL ON FUNCTION kv.reset_gpu_stats() FROM PUBLIC;

-- Of this session alone; kv.reset_stats() leaves it.
CREATE FUNCTION kv.gpu_session(OUT requests bigint, OUT launches bigint, OUT tiles bigint, OUT cached bigint, OUT staged bigint, OUT read_bytes bigint,
	OUT device_ms float8, OUT wait_ms float8, OUT on_cpu bigint, OUT last_reason text, OUT last_request text) RETURNS record
	AS 'MODULE_PATHNAME', 'kv_gpu_session' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
