-- A table full of dead rows that nobody cleans up, one that is in order, and a place for the findings.
CREATE TABLE maint_event (id int PRIMARY KEY, payload text) WITH (autovacuum_enabled = false);
INSERT INTO maint_event SELECT n, repeat('x', 100) FROM generate_series(1, 5000) n;
DELETE FROM maint_event WHERE id % 5 > 0;
CREATE TABLE maint_clean (id int PRIMARY KEY);
INSERT INTO maint_clean SELECT generate_series(1, 100);
CREATE TABLE maint_finding (
  relation name PRIMARY KEY, dead bigint NOT NULL, live bigint NOT NULL, pages_before int NOT NULL, index_before oid NOT NULL
);
