-- Sales of three regions, a table of totals, and a report on it.
CREATE TABLE agg_sale (region text NOT NULL, amount numeric NOT NULL);
INSERT INTO agg_sale SELECT (ARRAY['north', 'south', 'west'])[1 + n % 3], n FROM generate_series(1, 3000) n;
CREATE TABLE agg_total (region text PRIMARY KEY, amount numeric NOT NULL);
CREATE MATERIALIZED VIEW agg_report AS
  SELECT region, amount, round(100 * amount / sum(amount) OVER (), 1) AS percent FROM agg_total;
