-- Invoices. The last one is of somebody who never answers, so the time to answer is a column here.
CREATE TABLE approval_invoice (
  id int PRIMARY KEY, amount numeric NOT NULL, seconds_to_answer int NOT NULL DEFAULT 604800,
  state text NOT NULL DEFAULT 'open', decided_by text
);
INSERT INTO approval_invoice VALUES (1, 80), (2, 9000), (3, 7000), (4, 6000);
UPDATE approval_invoice SET seconds_to_answer = 1 WHERE id = 4;
