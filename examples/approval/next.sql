-- An application says so in the transaction in which it notes who has clicked.
SELECT df.signal(id, 'decision', '{"state": "approved", "by": "Kim"}')
FROM df.instances WHERE label = 'approval 2' AND status = 'running';
SELECT df.signal(id, 'decision', '{"state": "refused", "by": "Kim"}')
FROM df.instances WHERE label = 'approval 3' AND status = 'running';
