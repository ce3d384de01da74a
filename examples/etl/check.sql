DO $$
DECLARE
  v_statuses text[] := ARRAY(SELECT status FROM df.instances WHERE label = 'etl' ORDER BY created_at DESC LIMIT 2);
BEGIN
  ASSERT v_statuses = '{completed,failed}', format('the second run completes, the first one failed: %s', v_statuses);
  ASSERT (SELECT error LIKE '%invalid input syntax for type numeric: "twelve"%'
          FROM df.failed_steps WHERE label = 'etl' ORDER BY failed_at DESC LIMIT 1), 'the error names the value';
  ASSERT (SELECT array_agg((customer, amount)::text ORDER BY customer) FROM etl_total)
         = '{"(acme,16.00)","(globex,12)"}', 'totals of all five lines, each once';
  ASSERT NOT EXISTS (SELECT FROM etl_raw) AND NOT EXISTS (SELECT FROM etl_clean), 'nothing is left on the way';
END
$$;
