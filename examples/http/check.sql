DO $$
DECLARE
  v_chunks text[] := ARRAY(SELECT concat_ws(' ', document, no, body) FROM http_chunk ORDER BY document, no);
  v_classes text[] := ARRAY(SELECT concat_ws(' ', id, class, confidence) FROM http_record ORDER BY id);
BEGIN
  ASSERT (SELECT count(*) = 0 FROM df.instances WHERE label LIKE 'http %' AND status <> 'completed'), 'all complete';
  ASSERT v_chunks = ARRAY['1 1 Steps are "durable"', '1 2 They survive a crash', '1 3 Nothing is lost', '2 1 One sentence'],
         v_chunks::text;
  ASSERT (SELECT array_agg(employees ORDER BY domain) = '{120,4500,77}' FROM http_company), 'each company is completed';
  ASSERT (SELECT array_agg(answer ->> 'intact') = '{true}' FROM http_upload), 'the file has arrived, once, as it was';
  ASSERT v_classes = '{1 billing 0.9,2 support 0.8,3 unknown}', v_classes::text;
  ASSERT (SELECT sum(n.attempts - 1) = 4 FROM df.nodes n JOIN df.instances i ON i.id = n.instance_id
          WHERE i.label IN ('http chunk', 'http classify') AND n.node_type = 'HTTP'), 'four attempts have failed';
END
$$;
