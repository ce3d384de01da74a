-- What people say. The manager is quicker than the reviewer: the signal is kept until it is waited for.
SELECT df.signal(id, 'manager', '{"decision": "approve", "by": "Max"}')
FROM df.instances WHERE label = 'validation 1' AND status = 'running';
SELECT df.signal(id, 'reviewer', '{"decision": "approve", "by": "Ria"}')
FROM df.instances WHERE label = 'validation 1' AND status = 'running';
SELECT df.signal(id, 'reviewer', '{"decision": "reject", "by": "Ria"}')
FROM df.instances WHERE label = 'validation 2' AND status = 'running';
