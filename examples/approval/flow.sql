-- Up to 500 an invoice is approved by itself; above, somebody has to say so within seconds_to_answer.
CREATE FUNCTION approval_flow(invoice int, seconds int) RETURNS text LANGUAGE sql AS $flow$
  SELECT format('SELECT id, amount FROM approval_invoice WHERE id = %s', invoice) |=> 'i'
      ~> ('SELECT $i.amount <= 500'
          ?> 'UPDATE approval_invoice SET state = ''approved'', decided_by = ''rule'' WHERE id = $i.id'
          !> (df.wait_for_signal('decision', seconds) |=> 'answer'
              ~> ('SELECT $answer.timed_out'
                  ?> 'UPDATE approval_invoice SET state = ''overdue'' WHERE id = $i.id'
                  !> 'UPDATE approval_invoice SET state = $answer.data::jsonb ->> ''state'', decided_by = $answer.data::jsonb ->> ''by''
                      WHERE id = $i.id')))
$flow$;

SELECT df.start(approval_flow(id, seconds_to_answer), 'approval ' || id) FROM approval_invoice ORDER BY id;
