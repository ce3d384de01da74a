SELECT df.explain(id) FROM df.instances WHERE label = 'aggregation' ORDER BY created_at DESC LIMIT 1;
SELECT * FROM agg_report ORDER BY region;
