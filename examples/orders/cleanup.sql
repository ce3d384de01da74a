SELECT df.unsetvar('item'), df.unsetvar('quantity');
DROP FUNCTION shop_flow, shop_pay, shop_send;
DROP SEQUENCE shop_gateway_call;
DROP TABLE shop_item, shop_order, shop_payment;
