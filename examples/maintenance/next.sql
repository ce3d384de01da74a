-- The administrator has read maint_finding, and approves what concerns the example.
SELECT df.signal(i.id, 'remedy', (SELECT json_agg(f.id) FROM maint_finding f
                                  WHERE f.what LIKE 'maint\_%' OR f.kind = 'idle in transaction')::text)
FROM df.instances i WHERE i.label = 'maintenance' AND i.status = 'running';
