-- On weekdays at half past eight in Berlin, in summer and in winter, for ever.
SELECT df.start(
  @> (df.wait_for_schedule('30 8 * * MON-FRI', 'Europe/Berlin')
      ~> 'INSERT INTO sched_report (what) VALUES (''morning'')'),
  'schedule morning');

-- At the next full minute, once.
SELECT df.start(
  df.wait_for_schedule('* * * * *') ~> 'INSERT INTO sched_report (what) VALUES (''minute'')',
  'schedule minute');
