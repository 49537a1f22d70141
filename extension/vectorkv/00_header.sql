-- Run by CREATE EXTENSION; a psql that reads this file stops here.
\echo Use "CREATE EXTENSION vectorkv" to load this file. \quit

GRANT USAGE ON SCHEMA kv TO PUBLIC;

