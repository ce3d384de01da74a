SELECT df.cancel(id, 'end of the example') FROM df.instances
WHERE label LIKE 'schedule %' AND status IN ('pending', 'running');
DROP TABLE sched_inbox, sched_loaded, sched_event, sched_event_archive, sched_price, sched_price_copy, sched_report;
DROP FUNCTION sched_arrived;
