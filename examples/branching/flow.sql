-- If, else-if, else: the second IF stands in parentheses. df.if_rows asks whether a named result has rows, without SQL.
-- One run a ticket: the flow is text, made by format().
SELECT df.start(
     format('SELECT id, severity FROM branch_ticket WHERE id = %s', id) |=> 't'
  ~> ('SELECT $t.severity > 7'
      ?> 'INSERT INTO branch_action VALUES ($t.id, ''call somebody'')'
      !> ('SELECT $t.severity > 3'
          ?> 'INSERT INTO branch_action VALUES ($t.id, ''tomorrow'')'
          !> 'INSERT INTO branch_action VALUES ($t.id, ''some day'')'))
  ~> 'SELECT text FROM branch_comment WHERE ticket = $t.id' |=> 'comments'
  ~> df.if_rows('comments',
       'INSERT INTO branch_action VALUES ($t.id, ''answer the comment'')',
       'SELECT ''nobody has said anything'''),
  'branching')
FROM branch_ticket;
