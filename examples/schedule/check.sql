DO $$
DECLARE
  v_morning timestamp := (SELECT due_at AT TIME ZONE 'Europe/Berlin' FROM df.waiting WHERE label = 'schedule morning');
BEGIN
  ASSERT v_morning::time = '08:30' AND extract(isodow FROM v_morning) < 6, format('a weekday at 08:30, not %s', v_morning);
  ASSERT v_morning - localtimestamp < interval '4 days', 'the next one';
  ASSERT (SELECT array_agg(what) = '{minute}' FROM sched_report), 'the minute has come, the morning has not';
END
$$;
