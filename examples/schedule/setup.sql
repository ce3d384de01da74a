-- What arrives and is to be loaded, what is old and is to be moved away, what has changed and is to be copied.
CREATE TABLE sched_inbox (line text NOT NULL);
CREATE FUNCTION sched_arrived() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM df.poke('sched_inbox');
  RETURN NULL;
END
$$;
CREATE TRIGGER arrived AFTER INSERT ON sched_inbox FOR EACH STATEMENT EXECUTE FUNCTION sched_arrived();
CREATE TABLE sched_loaded (line text NOT NULL, loaded_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE sched_event (id int PRIMARY KEY, happened_at timestamptz NOT NULL);
CREATE TABLE sched_event_archive (LIKE sched_event INCLUDING ALL);
CREATE TABLE sched_price (item text PRIMARY KEY, price numeric NOT NULL, changed_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE sched_price_copy (LIKE sched_price INCLUDING ALL);
CREATE TABLE sched_report (made_at timestamptz NOT NULL DEFAULT clock_timestamp());

INSERT INTO sched_inbox VALUES ('a'), ('b');
INSERT INTO sched_event SELECT n, now() - n * interval '1 day' FROM generate_series(1, 1000) n;
INSERT INTO sched_price VALUES ('lamp', 40), ('chair', 70);
INSERT INTO sched_price_copy VALUES ('lamp', 35, '2020-01-01');
