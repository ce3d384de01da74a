-- Every effect of the run, next to what it must be if each step took effect exactly once.
SELECT * FROM (VALUES
  ('the run is', 'completed', df.status(%(run)s)),
  ('batches in the journal', '8', (SELECT count(*)::text FROM journal WHERE entry LIKE 'batch %%')),
  ('different batches in the journal', '8',
   (SELECT count(DISTINCT entry)::text FROM journal WHERE entry LIKE 'batch %%')),
  ('attempts at a batch: 8, and the killed one', '9', (SELECT last_value::text FROM attempts)),
  ('amount billed to all customers', (SELECT sum(amount)::text FROM orders), (SELECT sum(billed)::text FROM users)),
  ('customers billed too much or too little', '0',
   (SELECT count(*)::text FROM users u
    WHERE billed <> (SELECT coalesce(sum(amount), 0) FROM orders o WHERE o.user_id = u.user_id))),
  ('approvals in the journal', '1', (SELECT count(*)::text FROM journal WHERE entry LIKE '%%approved%%')),
  ('signals delivered', '1',
   (SELECT count(*)::text FROM df.signals WHERE instance_id = %(run)s AND status = 'delivered')),
  ('other entries in the journal', '0',
   (SELECT count(*)::text FROM journal WHERE entry NOT LIKE 'batch %%' AND entry NOT LIKE '%%approved%%')),
  ('amount billed, in the refreshed metrics', (SELECT sum(amount)::text FROM orders),
   (SELECT billed::text FROM metrics))
) AS proof(claim, expected, found)
