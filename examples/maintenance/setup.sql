-- An old table that nobody has frozen, one that is in order, and one that a load goes into. Autovacuum is off where the
-- example, not autovacuum, is to find something.
CREATE TABLE maint_archive (id int PRIMARY KEY)
  WITH (autovacuum_enabled = false, autovacuum_freeze_max_age = 100000);
INSERT INTO maint_archive SELECT generate_series(1, 100);
CREATE TABLE maint_clean (id int PRIMARY KEY);
INSERT INTO maint_clean SELECT generate_series(1, 100);
CREATE TABLE maint_event (id int PRIMARY KEY, payload text) WITH (autovacuum_enabled = false);

-- Each block with a handler takes a transaction number of its own: so do numbers run out.
DO $$
BEGIN
  FOR n IN 1..60000 LOOP
    BEGIN
      INSERT INTO maint_event VALUES (n, repeat('x', 50));
    EXCEPTION WHEN unique_violation THEN RAISE NOTICE 'line % is there already', n;
    END;
  END LOOP;
END
$$;

-- What is found, what would help, and what came of it.
CREATE TABLE maint_finding (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind text NOT NULL, what text NOT NULL, measure text NOT NULL,
  remedy text, approved boolean NOT NULL DEFAULT false, run text, gone boolean
);

-- Who keeps VACUUM from removing dead rows. Sessions of others are seen, and ended, by members of pg_monitor and
-- pg_signal_backend. A step finds itself: it has a transaction number (backend_xid) before its statement begins, since it has claimed
-- its row. So it leaves out its own pid, and other steps by the name that their sessions have. A step cannot end a prepared transaction: the remedy is for a person, so there is none here.
CREATE FUNCTION maint_blockers(older interval)
RETURNS TABLE (kind text, what text, measure text, remedy text) LANGUAGE sql AS $$
  SELECT CASE WHEN state LIKE 'idle in transaction%' THEN 'idle in transaction' ELSE 'old transaction' END,
         format('session %s of %s', pid, usename), format('begun %s ago', date_trunc('second', clock_timestamp() - xact_start)),
         format('SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid = %s AND backend_start = %L',
                pid, backend_start)
  FROM pg_stat_activity
  WHERE xact_start < clock_timestamp() - older AND coalesce(backend_xmin, backend_xid) IS NOT NULL
    AND pid <> pg_backend_pid() AND backend_type = 'client backend' AND NOT starts_with(application_name, 'pg_durable')
  UNION ALL
  SELECT 'stale replication slot', format('slot %s', slot_name),
         format('inactive, keeps %s of log', pg_size_pretty(pg_current_wal_lsn() - restart_lsn)),
         format('SELECT pg_drop_replication_slot(%L)', slot_name)
  FROM pg_replication_slots
  WHERE NOT active AND (xmin IS NOT NULL OR catalog_xmin IS NOT NULL OR restart_lsn IS NOT NULL)
  UNION ALL
  SELECT 'prepared transaction', format('transaction %L of %s', gid, owner), format('prepared %s', prepared), NULL
  FROM pg_prepared_xacts
  WHERE prepared < clock_timestamp() - older AND database = current_database()
$$;

-- The pages of each of my tables and their indexes, and the pages that their rows would need: an estimate from what the last
-- ANALYZE has written down. A table's row has 28 bytes of its own, an index entry 12, with a tenth left free.
CREATE FUNCTION maint_pages() RETURNS TABLE (relation regclass, is_index boolean, pages int, needed numeric) LANGUAGE sql AS $$
  WITH part AS (
    SELECT c.oid, false AS is_index, c.relpages, c.reltuples, 28 AS head, c.oid AS tab, a.attname
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    WHERE c.relkind IN ('r', 'm') AND pg_has_role(c.relowner, 'USAGE')
    UNION ALL
    SELECT c.oid, true, c.relpages, c.reltuples, 12, i.indrelid, a.attname
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
    WHERE c.relkind = 'i' AND pg_has_role(c.relowner, 'USAGE')
  )
  SELECT p.oid, p.is_index, p.relpages, ceil(p.reltuples * (p.head + sum(coalesce(s.stawidth, 8))) / 8168 * 1.1)::numeric + 1
  FROM part p
  LEFT JOIN (SELECT (quote_ident(schemaname) || '.' || quote_ident(tablename))::regclass AS tab, attname, avg_width AS stawidth
             FROM pg_stats WHERE NOT inherited) s USING (tab, attname)
  WHERE p.reltuples >= 0
  GROUP BY p.oid, p.is_index, p.relpages, p.reltuples, p.head
$$;

-- Tables that are more than half way to the age at which PostgreSQL freezes them whatever else goes on.
CREATE FUNCTION maint_ages() RETURNS TABLE (relation regclass, age int, allowed int) LANGUAGE sql AS $$
  SELECT c.oid, age(c.relfrozenxid), l.allowed
  FROM pg_class c
  CROSS JOIN LATERAL (
    SELECT least(current_setting('autovacuum_freeze_max_age')::int, min(o.option_value::int)) AS allowed
    FROM pg_options_to_table(c.reloptions) o WHERE o.option_name = 'autovacuum_freeze_max_age') AS l
  WHERE c.relkind IN ('r', 'm') AND pg_has_role(c.relowner, 'USAGE') AND age(c.relfrozenxid) > l.allowed / 2
$$;

-- Everything, in the order in which it is to be remedied: what blocks first, tables before their indexes.
CREATE FUNCTION maint_look(older interval DEFAULT '1 hour')
RETURNS TABLE (kind text, what text, measure text, remedy text) LANGUAGE sql AS $$
  SELECT * FROM maint_blockers(older)
  UNION ALL
  SELECT 'wraparound', relation::text, format('%s of %s transactions old', age, allowed), format('VACUUM (FREEZE, ANALYZE) %s', relation)
  FROM maint_ages()
  UNION ALL
  SELECT * FROM (
    SELECT CASE WHEN is_index THEN 'bloated index' ELSE 'bloated table' END, relation::text,
           format('%s pages, %s needed', pages, needed),
           format(CASE WHEN is_index THEN 'REINDEX INDEX CONCURRENTLY %s' ELSE 'VACUUM (ANALYZE) %s' END, relation)
    FROM maint_pages() WHERE pages > 20 AND pages > 2 * needed ORDER BY is_index) AS bloat
$$;
