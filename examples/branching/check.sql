DO $$
DECLARE
  v_actions text[] := ARRAY(SELECT ticket || ' ' || action FROM branch_action ORDER BY ticket, action);
BEGIN
  ASSERT (SELECT count(*) = 0 FROM df.instances WHERE label = 'branching' AND status <> 'completed'), 'all complete';
  ASSERT v_actions = '{1 answer the comment,1 call somebody,2 tomorrow,3 some day}', v_actions::text;
END
$$;
