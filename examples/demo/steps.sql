-- When each step began, and how long it took, in seconds. Of a step in a loop this is the last time.
WITH step AS (
  SELECT n.started_at, n.completed_at, i.created_at,
         CASE n.node_type
           WHEN 'SQL' THEN regexp_replace(n.query, '\s+', ' ', 'g')
           WHEN 'SIGNAL' THEN 'the signal ' || (n.query::jsonb ->> 'signal_name')
           ELSE lower(n.node_type) || ' ' || n.query
         END AS name
  FROM df.nodes n JOIN df.instances i ON i.id = n.instance_id
  WHERE n.instance_id = %(run)s AND n.status = 'completed' AND n.node_type IN ('SQL', 'SLEEP', 'SIGNAL')
)
SELECT CASE WHEN length(name) > 54 THEN left(name, 51) || '...' ELSE name END,
       to_char(extract(epoch FROM started_at - created_at), 'FM990.000'),
       to_char(extract(epoch FROM completed_at - started_at), 'FM990.000')
FROM step
ORDER BY started_at, completed_at
