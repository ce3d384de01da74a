-- What the run says, next to what the tables say.
WITH step AS (
  SELECT n.query, (SELECT value FROM jsonb_each_text(n.result #> '{rows,0}')) AS value
  FROM df.nodes n WHERE n.instance_id = %(run)s AND n.node_type = 'SQL'
)
SELECT * FROM (VALUES
  ('the run is', 'completed', df.status(%(run)s)),
  ('users, counted by step 1', (SELECT count(*)::text FROM users),
   (SELECT value FROM step WHERE query = 'SELECT count(*) FROM users')),
  ('orders, counted by step 2', (SELECT count(*)::text FROM orders),
   (SELECT value FROM step WHERE query = 'SELECT count(*) FROM orders')),
  ('amount, summed by step 3', (SELECT sum(amount)::text FROM orders),
   (SELECT value FROM step WHERE query = 'SELECT sum(amount) FROM orders')),
  ('amount in metrics, refreshed by step 4', (SELECT sum(amount)::text FROM orders),
   (SELECT ordered::text FROM metrics))
) AS proof(claim, expected, found)
