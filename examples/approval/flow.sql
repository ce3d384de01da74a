-- Up to 500 an invoice is approved by itself. Above, somebody has to decide: after two reminders the time is up. The loop's
-- condition is a step, too: it writes a reminder and is true when there was one to write.
CREATE FUNCTION approval_flow(invoice int, seconds int) RETURNS text LANGUAGE sql AS $flow$
  SELECT format('SELECT id, amount FROM approval_invoice WHERE id = %s', invoice) |=> 'i'
      ~> ('SELECT $i.amount <= 500'
          ?> 'UPDATE approval_invoice SET state = ''approved'', decided_by = ''rule'' WHERE id = $i.id'
          !> (df.loop(df.wait_for_signal('decision', seconds) |=> 'answer',
                'INSERT INTO approval_reminder
                 SELECT $i.id WHERE $answer.timed_out AND (SELECT count(*) < 2 FROM approval_reminder WHERE invoice = $i.id)
                 RETURNING true')
              ~> ('SELECT $answer.timed_out'
                  ?> 'UPDATE approval_invoice SET state = ''overdue'' WHERE id = $i.id'
                  !> 'UPDATE approval_invoice SET state = $answer.data::jsonb ->> ''state'', decided_by = $answer.data::jsonb ->> ''by''
                      WHERE id = $i.id')))
$flow$;

SELECT df.start(approval_flow(id, seconds_to_remind), 'approval ' || id) FROM approval_invoice ORDER BY id;
