SELECT df.explain(id) FROM df.instances WHERE label = 'etl' ORDER BY created_at DESC LIMIT 2;
SELECT query, error FROM df.failed_steps WHERE label = 'etl' ORDER BY failed_at DESC LIMIT 1;
SELECT * FROM etl_total ORDER BY customer;
