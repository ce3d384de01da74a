DO $$
DECLARE
  v_invoices text[] := ARRAY(SELECT concat_ws(' ', id, state, decided_by) FROM approval_invoice ORDER BY id);
BEGIN
  ASSERT (SELECT count(*) = 0 FROM df.instances WHERE label LIKE 'approval %' AND status <> 'completed'), 'all complete';
  ASSERT v_invoices = '{1 approved rule,2 approved Kim,3 refused Kim,4 overdue}', v_invoices::text;
  ASSERT (SELECT array_agg(invoice) = '{4,4}' FROM approval_reminder), 'two reminders, and only where nobody answers';
END
$$;
