-- The administrator has read maint_finding.
SELECT df.signal(id, 'remedy', '["maint_event"]') FROM df.instances WHERE label = 'maintenance' AND status = 'running';
