DO $$
DECLARE
  v_morning timestamp := (SELECT due_at AT TIME ZONE 'Europe/Berlin' FROM df.waiting WHERE label = 'schedule morning');
BEGIN
  ASSERT v_morning::time = '08:30' AND extract(isodow FROM v_morning) < 6, format('a weekday at 08:30, not %s', v_morning);
  ASSERT v_morning - now() AT TIME ZONE 'Europe/Berlin' < interval '4 days', 'the next one';
  ASSERT (SELECT count(*) = 0 FROM sched_report), 'the morning has not come';
  FOR try IN 1 .. 200 LOOP                                    -- the poke has been sent, the check is on its way
    EXIT WHEN (SELECT count(*) = 3 FROM sched_loaded);
    PERFORM pg_sleep(0.1);
  END LOOP;
  ASSERT (SELECT array_agg(line ORDER BY line) = '{a,b,c}' FROM sched_loaded), 'what had arrived is loaded, once';
  ASSERT (SELECT count(*) BETWEEN 910 AND 911 FROM sched_event_archive), 'what is old is in the archive';
  ASSERT (SELECT count(*) = 1000 FROM (SELECT id FROM sched_event UNION SELECT id FROM sched_event_archive) e), 'none is lost';
  ASSERT (SELECT array_agg(price ORDER BY item) = '{70,40}' FROM sched_price_copy), 'the copy is like the original';
  ASSERT (SELECT count(*) = 3 FROM df.waiting WHERE label LIKE 'schedule %' AND kind = 'schedule'), 'all wait for the next time';
END
$$;
