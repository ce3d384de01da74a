SELECT df.explain(id) FROM df.instances WHERE label = 'maintenance' ORDER BY created_at DESC LIMIT 1;
SELECT id, kind, what, measure, approved, df.status(run) AS remedy, gone FROM maint_finding ORDER BY id;
SELECT remedy FROM maint_finding WHERE approved ORDER BY id;
