SELECT label, kind, waits_for, due_at, due_at AT TIME ZONE 'Europe/Berlin' AS in_berlin
FROM df.waiting WHERE label LIKE 'schedule %';
SELECT * FROM sched_report;
