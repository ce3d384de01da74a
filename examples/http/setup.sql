-- Documents to be cut into chunks, companies to be completed, records to be classified; and a web service that does it, at
-- the address in the variable {service}: service.py.
CREATE TABLE http_document (id int PRIMARY KEY, body text NOT NULL);
INSERT INTO http_document VALUES (1, 'Steps are "durable". They survive a crash.' || chr(10) || 'Nothing is lost.'), (2, 'One sentence.');
CREATE TABLE http_chunk (document int REFERENCES http_document, no int, body text NOT NULL, PRIMARY KEY (document, no));

CREATE TABLE http_company (domain text PRIMARY KEY, employees int);
INSERT INTO http_company VALUES ('acme.test'), ('globex.test'), ('initech.test');
CREATE TABLE http_upload (status int, answer jsonb);

CREATE TABLE http_record (id int PRIMARY KEY, body text NOT NULL, class text, confidence numeric);
INSERT INTO http_record (id, body) VALUES (1, 'please send the invoice again'), (2, 'the printer is broken'), (3, '%&/()!');
