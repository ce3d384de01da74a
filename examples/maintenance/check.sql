DO $$
DECLARE
  v_found text[] := ARRAY(SELECT kind || ' ' || what FROM maint_finding WHERE what LIKE 'maint\_%' ORDER BY id);
BEGIN
  FOR try IN 1 .. 50 LOOP                                    -- up to PostgreSQL 14 statistics arrive a moment later
    EXIT WHEN (SELECT last_vacuum IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'maint_event');
    PERFORM pg_sleep(0.1), pg_stat_clear_snapshot();
  END LOOP;
  ASSERT (SELECT count(*) = 0 FROM df.instances WHERE label LIKE 'maintenance%' AND status <> 'completed'), 'all complete';
  ASSERT v_found = '{wraparound maint_archive,bloated table maint_event,bloated index maint_event_pkey}', v_found::text;
  ASSERT (SELECT count(*) = 1 FROM maint_finding WHERE kind = 'idle in transaction' AND approved), 'the forgotten report is found';
  ASSERT (SELECT bool_and(gone AND df.status(run) = 'completed') FROM maint_finding WHERE approved), 'all of it is remedied';
  ASSERT (SELECT age(relfrozenxid) < 50000 FROM pg_class WHERE relname = 'maint_archive'), 'frozen';
  ASSERT (SELECT pg_relation_size('maint_event') < 100 * 8192 AND pg_relation_size('maint_event_pkey') < 20 * 8192),
         'table and index are small again';
END
$$;
