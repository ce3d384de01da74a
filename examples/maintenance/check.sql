DO $$
BEGIN
  FOR try IN 1 .. 50 LOOP                                    -- up to PostgreSQL 14 statistics arrive a moment later
    EXIT WHEN (SELECT last_vacuum IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'maint_event');
    PERFORM pg_sleep(0.1), pg_stat_clear_snapshot();
  END LOOP;
  ASSERT (SELECT count(*) = 0 FROM df.instances WHERE label LIKE 'maintenance%' AND status <> 'completed'), 'all complete';
  ASSERT (SELECT array_agg(relation) = '{maint_event}' FROM maint_finding), 'one table is found';
  ASSERT (SELECT count(*) = 1 FROM pg_stat_user_tables WHERE relname LIKE 'maint\_%' AND last_vacuum IS NOT NULL),
         'that table is vacuumed, and no other';
  ASSERT (SELECT n_dead_tup = 0 FROM pg_stat_user_tables WHERE relname = 'maint_event'), 'the dead rows are gone';
  ASSERT (SELECT 'maint_event_pkey'::regclass::oid <> index_before FROM maint_finding), 'the index is a new one';
END
$$;
