SELECT df.explain(id) FROM df.instances WHERE label = 'branching' ORDER BY created_at DESC LIMIT 1;
SELECT * FROM branch_action ORDER BY ticket, action DESC;
