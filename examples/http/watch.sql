SELECT df.explain(id) FROM df.instances WHERE label = 'http enrich' ORDER BY created_at DESC LIMIT 1;
SELECT i.label, n.attempts, n.result ->> 'status' AS status, n.query::json ->> 'url' AS url
FROM df.nodes n JOIN df.instances i ON i.id = n.instance_id
WHERE i.label LIKE 'http %' AND n.node_type LIKE 'HTTP%' ORDER BY n.completed_at;
SELECT document, no, body FROM http_chunk ORDER BY document, no;
SELECT * FROM http_company ORDER BY domain;
SELECT id, body, class, confidence FROM http_record ORDER BY id;
