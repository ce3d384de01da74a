-- pg_durable @VERSION@ (built @BUILT@): durable functions for PostgreSQL 14 to 18.
--
--   psql -v ON_ERROR_STOP=1 [-v operator_schema=S] [-v worker_role=W] -f pg_durable.sql
--
-- One transaction; no superuser needed; run again it upgrades in place. Generated: do not edit.
\set QUIET on
\if :{?operator_schema}
\else
\set operator_schema public
\endif
\if :{?worker_role}
\else
\set worker_role ''
\endif
begin;
select pg_catalog.set_config('pg_durable.operator_schema', :'operator_schema', true),
       pg_catalog.set_config('pg_durable.worker_role', :'worker_role', true) \g /dev/null
-- body
