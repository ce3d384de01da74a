SELECT label, kind, waits_for, due_at FROM df.waiting WHERE label LIKE 'approval %';
SELECT df.explain(id) FROM df.instances WHERE label = 'approval 4' ORDER BY created_at DESC LIMIT 1;
SELECT i.id, amount, state, decided_by, count(r) AS reminders
FROM approval_invoice i LEFT JOIN approval_reminder r ON r.invoice = i.id GROUP BY i.id ORDER BY i.id;
