-- Up to 500 an invoice is approved by itself. Above, somebody has to decide: when the time is over, the clerk is reminded, then the head of the
-- department; when that helps neither, the last time-out fails with DF408, and the handler notes it. The value of a time-out is that of what has
-- come in time, or of what follows instead, so $answer is the decision, whenever it was made.
CREATE FUNCTION approval_flow(invoice int, seconds int) RETURNS text LANGUAGE sql AS $flow$
  SELECT format('SELECT id, amount FROM approval_invoice WHERE id = %s', invoice) |=> 'i'
      ~> ('SELECT $i.amount <= 500'
          ?> 'UPDATE approval_invoice SET state = ''approved'', decided_by = ''rule'' WHERE id = $i.id'
          !> df.catch(
               df.timeout(df.wait_for_signal('decision'), seconds,
                 'INSERT INTO approval_reminder VALUES ($i.id, ''clerk'')'
                 ~> df.timeout(df.wait_for_signal('decision'), seconds,
                      'INSERT INTO approval_reminder VALUES ($i.id, ''head of department'')'
                      ~> df.timeout(df.wait_for_signal('decision'), seconds))) |=> 'answer'
               ~> 'UPDATE approval_invoice SET state = $answer.data::jsonb ->> ''state'', decided_by = $answer.data::jsonb ->> ''by''
                   WHERE id = $i.id',
               'UPDATE approval_invoice SET state = ''overdue'' WHERE id = $i.id',
               ARRAY['DF408']))
$flow$;

SELECT df.start(approval_flow(id, seconds_to_remind), 'approval ' || id) FROM approval_invoice ORDER BY id;
