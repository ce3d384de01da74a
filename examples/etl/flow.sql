-- Each step takes rows from one table to the next. A step that fails takes none, so starting again goes on where it stopped.
CREATE FUNCTION etl_flow() RETURNS text LANGUAGE sql AS $flow$
  SELECT 'WITH taken AS (DELETE FROM etl_raw RETURNING *)
          INSERT INTO etl_clean SELECT line, lower(trim(customer)), trim(amount) FROM taken WHERE amount IS NOT NULL'
      ~> 'WITH taken AS (DELETE FROM etl_clean RETURNING *)
          INSERT INTO etl_sale SELECT line, customer, amount::numeric FROM taken'
      ~> 'INSERT INTO etl_total SELECT customer, sum(amount) FROM etl_sale GROUP BY customer
          ON CONFLICT (customer) DO UPDATE SET amount = excluded.amount'
$flow$;

SELECT df.start(etl_flow(), 'etl');
