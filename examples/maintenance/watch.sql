SELECT df.explain(id) FROM df.instances WHERE label LIKE 'maintenance%' ORDER BY created_at;
SELECT relation, dead, live FROM maint_finding;
