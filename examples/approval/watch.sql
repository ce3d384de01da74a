SELECT label, kind, waits_for, due_at FROM df.waiting WHERE label LIKE 'approval %';
SELECT df.explain(id) FROM df.instances WHERE label = 'approval 3' ORDER BY created_at DESC LIMIT 1;
SELECT id, amount, state, decided_by FROM approval_invoice ORDER BY id;
