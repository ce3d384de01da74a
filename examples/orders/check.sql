DO $$
BEGIN
  ASSERT (SELECT array_agg(status) = '{completed,completed}'
          FROM (SELECT status FROM df.instances WHERE label = 'orders' ORDER BY created_at DESC LIMIT 2) AS r), 'both end';
  ASSERT (SELECT array_agg((quantity, state)::text ORDER BY quantity) = '{"(2,completed)","(9,rejected)"}'
          FROM shop_order), 'one completed, one rejected';
  ASSERT (SELECT array_agg(amount) = '{80}' FROM shop_payment), 'paid once';
  ASSERT (SELECT stock = 3 FROM shop_item), 'taken out once';
  ASSERT (SELECT last_value = 2 FROM shop_gateway_call), 'at the second attempt';
END
$$;
