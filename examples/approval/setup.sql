-- Invoices. Nobody ever answers about the last one, so how long to wait before a reminder is a column here.
CREATE TABLE approval_invoice (
  id int PRIMARY KEY, amount numeric NOT NULL, seconds_to_remind int NOT NULL DEFAULT 172800,
  state text NOT NULL DEFAULT 'open', decided_by text
);
INSERT INTO approval_invoice VALUES (1, 80), (2, 9000), (3, 7000), (4, 6000);
UPDATE approval_invoice SET seconds_to_remind = 1 WHERE id = 4;

-- What the mail program sends.
CREATE TABLE approval_reminder (invoice int NOT NULL REFERENCES approval_invoice, sent_to text NOT NULL, sent_at timestamptz NOT NULL DEFAULT now());
