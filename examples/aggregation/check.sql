DO $$
DECLARE
  v_run text := (SELECT id FROM df.instances WHERE label = 'aggregation' ORDER BY created_at DESC LIMIT 1);
BEGIN
  ASSERT df.status(v_run) = 'completed', df.status(v_run);
  ASSERT df.result(v_run)::jsonb -> 'rows' -> 0 = '{"regions": 3, "total": 4501500}', df.result(v_run);
  ASSERT (SELECT count(*) = 3 AND sum(percent) BETWEEN 99.9 AND 100.1 FROM agg_report), 'three regions in the report';
END
$$;
