DO $$
DECLARE
  v_loans text[] := ARRAY(SELECT concat_ws(' ', applicant, state, reason) FROM loan ORDER BY id);
BEGIN
  ASSERT (SELECT count(*) = 0 FROM df.instances WHERE label LIKE 'validation %' AND status <> 'completed'), 'all complete';
  ASSERT v_loans = '{Ann approved,"Bob rejected refused: reviewer","Cy rejected not affordable","Di rejected incomplete"}',
         v_loans::text;
  ASSERT (SELECT count(*) = 0 FROM df.signals s JOIN df.instances i ON i.id = s.instance_id
          WHERE i.label LIKE 'validation %' AND s.status <> 'delivered'), 'no word is lost';
END
$$;
