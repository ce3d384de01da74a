SELECT df.start(
    'SELECT count(*) FROM users'
  & 'SELECT count(*) FROM orders'
  & 'SELECT sum(amount) FROM orders'
  ~> 'REFRESH MATERIALIZED VIEW metrics',
  'metrics');
