# The second part of the quickstart: the KV cache of a real language model in tables, attention over it in SQL, and its error against
# double precision.  Sourced by quickstart.sh, whose functions it uses.
# shellcheck shell=bash

KV_CODECS=(f16 int8 int4)

load_kv() {
    local started codec
    started=$(date +%s.%N)
    sql -c 'CREATE EXTENSION vectorkv' -c 'CREATE TABLE kv_stage (name text, dtype text, shape int[], data bytea)'
    python3 "$ROOT/test/data/kv_sample/kv_sample.py" | sql -c 'COPY kv_stage FROM STDIN WITH (FORMAT binary)'
    sql << 'SQL'
CREATE TABLE kv_sample AS SELECT name, kv.tensor(data, shape, dtype) AS value FROM kv_stage;
DROP TABLE kv_stage;
CREATE TABLE kv_answer (cache text, layer int, pos int, output kv.tensor, ms float8);
CREATE TABLE kv_time (cache text, prompt_ms float8, token_ms float8);

-- A prompt of 1,008 tokens, then 16 tokens one at a time: append its keys and values, attend with its queries in both layers.
CREATE FUNCTION run_model(name regclass) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    k kv.tensor := (SELECT value FROM kv_sample s WHERE s.name = 'k_post');
    v kv.tensor := (SELECT value FROM kv_sample s WHERE s.name = 'v');
    q kv.tensor := (SELECT value FROM kv_sample s WHERE s.name = 'q');
    k1 kv.tensor := kv.slice(k, 2, 0, 1008);
    v1 kv.tensor := kv.slice(v, 2, 0, 1008);
    q1 kv.tensor;
    output kv.tensor;
    started timestamptz := clock_timestamp();
    prompt_ms float8;
    token_ms float8 := 0;
BEGIN
    PERFORM kv.append(name, 1, k1, v1);
    prompt_ms := extract(epoch FROM clock_timestamp() - started) * 1000;
    FOR pos IN 1008 .. 1023 LOOP
        k1 := kv.slice(k, 2, pos, 1);
        v1 := kv.slice(v, 2, pos, 1);
        started := clock_timestamp();
        PERFORM kv.append(name, 1, k1, v1);
        token_ms := token_ms + extract(epoch FROM clock_timestamp() - started) * 1000 / 16;
        FOR layer IN 0 .. 1 LOOP
            q1 := kv.reshape(kv.slice(kv.slice(q, 0, layer, 1), 2, pos - 1008, 1), '{1,9,64}');
            started := clock_timestamp();
            output := kv.attend(name, ARRAY[1], layer, q1);
            INSERT INTO kv_answer VALUES (name::text, layer, pos, output, extract(epoch FROM clock_timestamp() - started) * 1000);
        END LOOP;
    END LOOP;
    INSERT INTO kv_time VALUES (name::text, prompt_ms, token_ms);
END $$;
SQL
    for codec in "${KV_CODECS[@]}"; do
        sql -c "SELECT kv.create_cache('chat_$codec', layers => 2, q_heads => 9, kv_heads => 3, head_dim => 64, codec => '$codec',
            model => 'SmolLM2-135M-Instruct')" -c "SELECT run_model('chat_$codec')" > /dev/null
    done
    step 'kv cache' "keys and values of 1,024 tokens, layers 0 and 15 of SmolLM2-135M, in three caches ($(since "$started"))"
}

report_kv() {
    local codec
    say ''
    say 'Attention in SQL: 9 query heads, 3 KV heads of 64 dimensions, 1,024 tokens; the queries are the model'"'"'s own'
    say '  codec  bytes a token  of 16 bits  prompt a token  append 1 token  kv.attend 1 layer  error against float64'
    for codec in "${KV_CODECS[@]}"; do
        sql << SQL
SELECT format('  %s  %s  %s  %s  %s  %s  %s', rpad('$codec', 5), to_char(bytes, '999,999,999'), to_char(100 * bytes / 1536, '999,999') || ' %',
    to_char(1000 * prompt_ms / 1008, '9999,999') || ' µs', to_char(token_ms, '9,999,990.99') || ' ms', to_char(attend_ms, '999,999,990.99') || ' ms',
    to_char(error, '9.9EEEE'))
FROM (SELECT pg_relation_size('chat_${codec}_sealed') / sealed::numeric AS bytes FROM chat_$codec) b,
    (SELECT prompt_ms::numeric, token_ms::numeric FROM kv_time WHERE cache = 'chat_$codec') t,
    (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)::numeric AS attend_ms FROM kv_answer WHERE cache = 'chat_$codec') a,
    (SELECT avg(kv.relative_error(output, kv.reshape(kv.slice(kv.slice(value, 0, layer, 1), 2, pos - 1008, 1), '{1,9,64}'))) AS error
        FROM kv_answer, kv_sample WHERE cache = 'chat_$codec' AND name = 'out') e;
SQL
    done
    say '  (bytes of the sealed tokens, whole pages; the newest 128 tokens of int8 and int4 stay halves)'
    say ''
    say 'Where the model looks: layer 15, query head 0, from the last token'
    sql -F '  ' << 'SQL'
SELECT format('  position %s', to_char(position, '9999')), to_char(100 * weight, '990.0') || ' %', repeat('#', round(60 * weight)::int)
FROM kv.weights('chat_f16', 1, 1, (SELECT kv.reshape(kv.slice(kv.slice(value, 0, 1, 1), 2, 15, 1), '{9,64}') FROM kv_sample WHERE name = 'q'))
WHERE head = 0 ORDER BY weight DESC LIMIT 5;
SQL
}
