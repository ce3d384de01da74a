DO $$
DECLARE
  v_invoices text[];
BEGIN
  PERFORM df.await_instance(id) FROM df.instances WHERE label = 'approval 4' AND status = 'running';  -- until its last time-out
  v_invoices := ARRAY(SELECT concat_ws(' ', id, state, decided_by) FROM approval_invoice ORDER BY id);
  ASSERT (SELECT count(*) = 0 FROM df.instances WHERE label LIKE 'approval %' AND status <> 'completed'), 'all complete';
  ASSERT v_invoices = '{1 approved rule,2 approved Kim,3 refused Kim,4 overdue}', v_invoices::text;
  ASSERT (SELECT array_agg(concat_ws(' ', invoice, sent_to) ORDER BY sent_at) = '{4 clerk,4 head of department}' FROM approval_reminder),
         'two reminders, and only where nobody answers';
END
$$;
