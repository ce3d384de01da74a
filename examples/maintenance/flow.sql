-- Detect and report; ask; then one run a table. VACUUM and REINDEX CONCURRENTLY cannot be in a transaction: such steps run
-- outside of one, at least once. The step that starts them is an ordinary one, so each is started exactly once.
SELECT df.start(
     df.loop(df.sleep(0.2) ~> 'SELECT pg_stat_clear_snapshot()',            -- statistics arrive a moment later
             'SELECT NOT EXISTS (SELECT FROM pg_stat_user_tables WHERE relname = ''maint_event'' AND n_dead_tup > 0)')
  ~> 'INSERT INTO maint_finding
      SELECT s.relname, s.n_dead_tup, s.n_live_tup, c.relpages, i.indexrelid
      FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid JOIN pg_index i ON i.indrelid = s.relid
      WHERE s.relname LIKE ''maint\_%'' AND s.n_dead_tup > s.n_live_tup RETURNING relation, dead' |=> 'found'
  ~> df.if_rows('found',
       df.wait_for_signal('remedy', 86400) |=> 'answer'
         ~> 'SELECT df.start(format(''VACUUM (ANALYZE) %I'', relation) ~> format(''REINDEX TABLE CONCURRENTLY %I'', relation),
                             ''maintenance of '' || relation)
             FROM maint_finding WHERE NOT $answer.timed_out AND $answer.data?::jsonb ? relation::text',
       'SELECT ''nothing to do'''),
  'maintenance');
