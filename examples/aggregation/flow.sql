-- The regions at the same time, each in a session of its own; the refresh when all three are done.
SELECT df.start(
     df.join3(
       'INSERT INTO agg_total SELECT region, sum(amount) FROM agg_sale WHERE region = ''north'' GROUP BY region RETURNING amount',
       'INSERT INTO agg_total SELECT region, sum(amount) FROM agg_sale WHERE region = ''south'' GROUP BY region RETURNING amount',
       'INSERT INTO agg_total SELECT region, sum(amount) FROM agg_sale WHERE region = ''west'' GROUP BY region RETURNING amount')
     |=> 'parts'
  ~> 'REFRESH MATERIALIZED VIEW agg_report'
  ~> 'SELECT json_array_length($parts::json) AS regions, (SELECT sum(amount) FROM agg_report) AS total',
  'aggregation');
