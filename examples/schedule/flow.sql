-- On weekdays at half past eight in Berlin, in summer and in winter, for ever.
SELECT df.start(
  @> (df.wait_for_schedule('30 8 * * MON-FRI', 'Europe/Berlin') ~> 'INSERT INTO sched_report DEFAULT VALUES'),
  'schedule morning');

-- Poll: take what has arrived. The trigger of the table pokes, so that is at once; without a poke it is looked at each hour.
SELECT df.start(
  @> (df.wait_for('SELECT EXISTS (SELECT FROM sched_inbox)', '1 hour', 'sched_inbox')
      ~> 'WITH taken AS (DELETE FROM sched_inbox RETURNING line) INSERT INTO sched_loaded (line) SELECT line FROM taken'),
  'schedule poll');

-- Archive: what is older than 90 days, 200 rows a transaction until there are none. In life '0 3 * * *', at night.
SELECT df.start(
  @> (df.wait_for_schedule('* * * * *', 'Europe/Berlin')
      ~> df.loop(
           'WITH old AS (SELECT id FROM sched_event WHERE happened_at < now() - interval ''90 days'' LIMIT 200),
                 moved AS (DELETE FROM sched_event e USING old WHERE e.id = old.id RETURNING e.*),
                 kept AS (INSERT INTO sched_event_archive SELECT * FROM moved RETURNING 1)
            SELECT count(*) AS rows FROM kept' |=> 'moved',
           'SELECT $moved.rows > 0')),
  'schedule archive');

-- Sync: what has changed since the last copy. It remembers nothing, so it does not matter how long it has not run.
SELECT df.start(
  @> (df.wait_for_schedule('* * * * *')
      ~> 'INSERT INTO sched_price_copy SELECT * FROM sched_price
          ON CONFLICT (item) DO UPDATE SET (price, changed_at) = (excluded.price, excluded.changed_at)
          WHERE sched_price_copy.changed_at < excluded.changed_at'),
  'schedule sync');
