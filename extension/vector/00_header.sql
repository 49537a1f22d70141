-- Run by CREATE EXTENSION; a psql that reads this file stops here.
\echo Use "CREATE EXTENSION vector" to load this file. \quit

