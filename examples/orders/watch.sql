SELECT df.explain(id) FROM df.instances WHERE label = 'orders' ORDER BY created_at DESC LIMIT 3;
SELECT n.query, n.status, n.attempts FROM df.nodes n JOIN df.instances i ON i.id = n.instance_id
WHERE i.label = 'orders' AND n.retry_policy IS NOT NULL;
SELECT * FROM shop_order ORDER BY id;
