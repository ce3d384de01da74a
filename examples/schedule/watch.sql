SELECT label, kind, waits_for, due_at, due_at AT TIME ZONE 'Europe/Berlin' AS in_berlin
FROM df.waiting WHERE label LIKE 'schedule %' ORDER BY label;
SELECT label, status, execution_count AS iteration FROM df.list_instances('running') WHERE label LIKE 'schedule %' ORDER BY label;
SELECT (SELECT count(*) FROM sched_loaded) AS loaded, (SELECT count(*) FROM sched_event_archive) AS archived,
       (SELECT count(*) FROM sched_price_copy) AS copied;
