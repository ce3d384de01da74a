SELECT df.cancel(id, 'end of the example') FROM df.instances
WHERE label LIKE 'schedule %' AND status IN ('pending', 'running');
DROP TABLE sched_report;
