-- The GPU helper where the library is not preloaded: everything is computed on the CPU, which is said when somebody asks. Where it is preloaded
-- there is nothing to see here: test/t/03*_gpu_*.pl look at that.
SELECT current_setting('shared_preload_libraries') ~ '\mvector\M' AS preloaded \gset
\if :preloaded
\quit
\endif
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS vectorkv;
RESET client_min_messages;
SELECT kv.create_cache('kv_gpu', 1, 2, 1, 4, codec => 'f16');
SELECT kv.append('kv_gpu', 1, 'f16[1,1,2,4]{1,0,0,0,0,1,0,0}', 'f16[1,1,2,4]{1,2,3,4,5,6,7,8}');

-- Status.
SELECT setting, state, reason, device, backend, pid, restarts, slots, launch_ns FROM kv.gpu_status();
SELECT count(*) FILTER (WHERE value IS NOT NULL) AS known FROM jsonb_each_text(to_jsonb(kv.gpu_status())) t(name, value);
SELECT requests, batches, average_batch, hits, misses, evictions, staged_bytes, read_bytes, wait_ms, errors, answered, fallbacks, on_cpu, restarts FROM kv.gpu_stats;
SELECT requests, tiles, on_cpu, last_reason, last_request FROM kv.gpu_session();
SELECT kv.reset_gpu_stats();

-- Whatever the setting, an answer is the same, or an error that says what to do.
SELECT kv.attend('kv_gpu', '{1}', 0, '{{{1,0,0,0},{0,1,0,0}}}', scale => 0);
SET vectorkv.gpu = off;
SELECT kv.attend('kv_gpu', '{1}', 0, '{{{1,0,0,0},{0,1,0,0}}}', scale => 0);
SET vectorkv.gpu = on;
SELECT kv.attend('kv_gpu', '{1}', 0, '{{{1,0,0,0},{0,1,0,0}}}', scale => 0);
SELECT setting, state FROM kv.gpu_status();
SET vectorkv.gpu = require;
SELECT kv.attend('kv_gpu', '{1}', 0, '{{{1,0,0,0},{0,1,0,0}}}', scale => 0);
\echo :LAST_ERROR_SQLSTATE
SELECT (kv.attend('kv_gpu', '{1}', 0, '{{{1,0,0,0},{0,1,0,0}}}', true)).lse;
-- Nothing to compute is no reason to complain.
SELECT kv.attend('kv_gpu', '{}', 0, 'f32[0,2,4]{}');
RESET vectorkv.gpu;
SELECT operation, calls, backend LIKE 'cpu %' AS cpu, requests, cached, staged, device_milliseconds, wait_milliseconds,
	regexp_replace(last_line, '\d+\.\d+|backend=cpu \w+', '#', 'g') AS line FROM kv.stats ORDER BY operation;

-- Settings.
SELECT name, setting, unit, context, vartype, enumvals FROM pg_settings WHERE name LIKE 'vectorkv.gpu%' ORDER BY name COLLATE "C";
SET vectorkv.gpu = maybe;
\set VERBOSITY sqlstate
SET vectorkv.gpu_timeout = '-1s';
\set VERBOSITY default
SET vectorkv.gpu_timeout = '100ms';
SHOW vectorkv.gpu_timeout;
SET vectorkv.gpu_device = 'cpu';
ALTER SYSTEM SET vectorkv.gpu_device = 'opencl';
\set VERBOSITY sqlstate
ALTER SYSTEM SET vectorkv.gpu_memory = '-1';
\set VERBOSITY default

-- Others than a superuser.
CREATE ROLE kv_gpu_user;
SET ROLE kv_gpu_user;
SELECT state FROM kv.gpu_status();
SELECT requests FROM kv.gpu_stats;
SELECT kv.reset_gpu_stats();
SET vectorkv.gpu = off;
SET vectorkv.gpu_test_fault = hang;
RESET ROLE;
DROP ROLE kv_gpu_user;
SELECT kv.drop_cache('kv_gpu');
