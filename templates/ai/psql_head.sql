-- pg_durable @VERSION@ (built @BUILT@): AI pipelines, for pg_durable 1.0 and pgvector 0.7 or later.
--
--   psql -v ON_ERROR_STOP=1 -f pg_durable_ai.sql
--
-- One transaction; run again it upgrades in place. Install it as the role that pg_durable was installed as. Generated: do not edit.
\set QUIET on
begin;
-- body
