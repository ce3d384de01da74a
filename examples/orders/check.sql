DO $$
BEGIN
  ASSERT (SELECT array_agg(concat_ws(' ', status, undo_status) ORDER BY status) = '{completed,completed,failed completed}'
          FROM (SELECT * FROM df.instances WHERE label = 'orders' ORDER BY created_at DESC LIMIT 3) AS r), 'all end, one undone';
  ASSERT (SELECT array_agg((quantity, state)::text ORDER BY quantity) = '{"(2,completed)","(3,\"given back\")","(9,rejected)"}'
          FROM shop_order), 'one completed, one given back, one rejected';
  ASSERT (SELECT array_agg(amount) = '{80}' FROM shop_payment), 'paid once';
  ASSERT (SELECT stock = 3 FROM shop_item), 'taken out once';
  ASSERT (SELECT last_value = 3 FROM shop_gateway_call), 'one at the second attempt';
END
$$;
