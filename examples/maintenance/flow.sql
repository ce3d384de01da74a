-- Most of the load is taken back.
DELETE FROM maint_event WHERE id > 2000;

-- Analyze all tables side by side, one branch a table (df.all_agg). Detect and report; ask; remedy what was approved, one after
-- the other in the order of the report (df.map of one at a time); look again. VACUUM and REINDEX CONCURRENTLY cannot be in a
-- transaction: such steps run outside of one, at least once. Each remedy is a run of its own, started by an ordinary step, so
-- exactly once, and one that fails says why and stops nothing else. In life use maint_look(): what blocks is what is older than an hour.
SELECT df.start(
     df.all_agg(format('ANALYZE %I.%I', schemaname, tablename) ORDER BY tablename)
  ~> df.sleep(0.5)
  ~> 'INSERT INTO maint_finding (kind, what, measure, remedy) SELECT * FROM maint_look(''0.5 s'') RETURNING kind, what' |=> 'found'
  ~> df.if_rows('found',
       df.wait_for_signal('remedy', 86400) |=> 'answer'
         ~> 'UPDATE maint_finding SET approved = true
             WHERE NOT $answer.timed_out AND remedy IS NOT NULL AND $answer.data?::jsonb @> to_jsonb(id) RETURNING id' |=> 'approved'
         ~> df.if_rows('approved',
              df.map('SELECT id FROM maint_finding WHERE approved ORDER BY id',
                'UPDATE maint_finding SET run = df.start(remedy, ''maintenance: '' || remedy) WHERE id = $item.id RETURNING run' |=> 'remedy'
                  ~> df.loop(df.sleep(0.1), 'SELECT df.status($remedy.run) IN (''pending'', ''running'')'),
                parallel => 1),
              'SELECT ''nothing approved''')
         ~> 'WITH still AS (SELECT kind, what FROM maint_look(''0.5 s''))
             UPDATE maint_finding f SET gone = (f.kind, f.what) NOT IN (SELECT kind, what FROM still)
             RETURNING kind, what, gone',
       'SELECT ''all is well''')
  |=> 'report',
  'maintenance')
FROM pg_tables WHERE tablename LIKE 'maint\_%';
