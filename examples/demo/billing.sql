SELECT df.start(
     'SELECT count(*), sum(amount) FROM orders' |=> 'due'
  ~> df.loop(
       'SELECT bill(1 + coalesce($last.no?, 0)) AS no'
         |=> 'last',
       'SELECT $last.no < 8')
  ~> df.sleep(1)
  ~> df.wait_for_signal('approve', 60) |=> 'reply'
  ~> ('SELECT $reply.timed_out'
     ?> 'INSERT INTO journal VALUES (''no reply'')'
     !> 'INSERT INTO journal
         VALUES (''$due.sum approved by $reply.data'')')
  ~> 'REFRESH MATERIALIZED VIEW metrics',
  'billing');
