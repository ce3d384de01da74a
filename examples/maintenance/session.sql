-- Somebody's report, begun and forgotten: as long as its transaction is open, no row that it may still see is removed.
-- (In psql: keep the session open.)
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM maint_event;
