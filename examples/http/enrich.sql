-- Fills in what a web service knows about each company, one request a row, then carries the service's logo back to it.
-- {service} is a variable: the address of the service.

CREATE TABLE company (domain text PRIMARY KEY, employees int);
INSERT INTO company VALUES ('acme.test'), ('globex.test'), ('initech.test');
CREATE TABLE upload (status int, answer jsonb);

SELECT df.start(
     df.loop(
          'SELECT domain FROM company WHERE employees IS NULL ORDER BY domain LIMIT 1' |=> 'c'
       ~> df.if_rows('c',
               df.http('http://{service}/companies/$c.domain', 'GET') |=> 'r'
            ~> 'UPDATE company SET employees = ($r.body::json ->> ''employees'')::int WHERE domain = $c.domain',
            df.break()))
  ~> df.http('http://{service}/logo.png', 'GET') |=> 'logo'
  ~> df.http_multipart('http://{service}/upload', parts => jsonb_build_array(
       jsonb_build_object('name', 'logo', 'filename', 'logo.png', 'content_type', 'image/png', 'data_b64', '$logo.body')))
     |=> 'up'
  ~> 'INSERT INTO upload VALUES ($up.status, $up.body)',
  'enrich');
