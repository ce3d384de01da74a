SELECT df.explain(id) FROM df.instances WHERE label = 'validation 2' ORDER BY created_at DESC LIMIT 1;
SELECT i.label, s.signal_name, s.signal_data, s.status, s.sent_by
FROM df.signals s JOIN df.instances i ON i.id = s.instance_id WHERE i.label LIKE 'validation %' ORDER BY s.signal_id;
SELECT * FROM loan ORDER BY id;
