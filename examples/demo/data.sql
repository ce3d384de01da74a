-- A small shop: what the role `app` owns before the demo starts.
CREATE TABLE users (user_id int PRIMARY KEY, name text NOT NULL, billed numeric(12, 2) NOT NULL DEFAULT 0);
CREATE TABLE orders (order_id int PRIMARY KEY, user_id int NOT NULL REFERENCES users, amount numeric(12, 2) NOT NULL);
CREATE MATERIALIZED VIEW metrics AS
  SELECT (SELECT count(*) FROM users) AS users, (SELECT count(*) FROM orders) AS orders,
         (SELECT sum(amount) FROM orders) AS ordered, (SELECT sum(billed) FROM users) AS billed
  WITH NO DATA;

INSERT INTO users SELECT n, 'customer ' || n FROM generate_series(1, 1000) n;
INSERT INTO orders SELECT n, 1 + n * 7919 % 1000, (100 + n * 31 % 9900) / 100.0 FROM generate_series(1, 100000) n;
ANALYZE users, orders;

-- No key, no constraint: whatever is done twice shows twice.
CREATE TABLE journal (entry text NOT NULL, made_at timestamptz NOT NULL DEFAULT clock_timestamp());
-- A sequence is not rolled back: it counts all attempts, also those that came to nothing.
CREATE SEQUENCE attempts;

-- Bills an eighth of the orders; done twice, it would bill them twice. The fourth attempt is slow enough to be killed.
CREATE FUNCTION bill(batch int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
  UPDATE users u SET billed = u.billed + o.amount
  FROM (SELECT user_id, sum(amount) AS amount FROM orders WHERE order_id % 8 = batch - 1 GROUP BY user_id) o
  WHERE o.user_id = u.user_id;
  INSERT INTO journal VALUES ('batch ' || batch);
  PERFORM pg_sleep(CASE nextval('attempts') WHEN 4 THEN 10 ELSE 0.2 END);
  RETURN batch;
END
$$;
