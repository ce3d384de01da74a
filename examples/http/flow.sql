-- Chunk: a request for each document; its chunks become rows. json_build_object does the escaping.
SELECT df.start(
     format('SELECT json_build_object(''text'', body) AS request FROM http_document WHERE id = %s', id) |=> 'd'
  ~> df.http('http://{service}/chunk', body => '$d.request', headers => '{"Content-Type": "application/json"}') |=> 'r'
  ~> format('INSERT INTO http_chunk SELECT %s, c.no, c.body
             FROM json_array_elements_text($r.body::json -> ''chunks'') WITH ORDINALITY AS c(body, no)', id),
  'http chunk')
FROM http_document;

-- Enrich: one run that goes through the rows until none is left, then carries a file from one place to another.
SELECT df.start(
     df.loop(
          'SELECT domain FROM http_company WHERE employees IS NULL ORDER BY domain LIMIT 1' |=> 'c'
       ~> df.if_rows('c',
               df.http('http://{service}/companies/$c.domain', 'GET') |=> 'r'
            ~> 'UPDATE http_company SET employees = ($r.body::json ->> ''employees'')::int WHERE domain = $c.domain',
            df.break()))
  ~> df.http('http://{service}/logo.png', 'GET') |=> 'logo'
  ~> df.http_multipart('http://{service}/upload', parts => jsonb_build_array(
       jsonb_build_object('name', 'logo', 'filename', 'logo.png', 'content_type', 'image/png', 'data_b64', '$logo.body')))
     |=> 'up'
  ~> 'INSERT INTO http_upload VALUES ($up.status, $up.body)',
  'http enrich');

-- Classify: a run for each record. What the service cannot classify it refuses with 422, which is an answer like any other;
-- 429, 503 and a lost connection are not, and are tried again by themselves.
SELECT df.start(
     format('SELECT json_build_object(''text'', body) AS request FROM http_record WHERE id = %s', id) |=> 'x'
  ~> df.retry(df.http('http://{service}/classify', body => '$x.request', headers => '{"Content-Type": "application/json"}'),
              initial_delay => '100 ms') |=> 'r'
  ~> ('SELECT $r.ok'
      ?> format('UPDATE http_record SET (class, confidence) =
                   (SELECT class, confidence FROM json_to_record($r.body::json) AS a(class text, confidence numeric))
                 WHERE id = %s', id)
      !> format('UPDATE http_record SET class = ''unknown'' WHERE id = %s', id)),
  'http classify')
FROM http_record;
