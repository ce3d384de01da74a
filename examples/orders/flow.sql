-- An order is made and its id is captured; if there is enough in stock it is taken out, paid and completed. The payment is
-- tried again by itself: its error is a transient one. What has been taken has a compensation: when the parcel cannot be sent, the money is
-- given back, then the goods. {item} and {quantity} are variables, frozen at the start.
CREATE FUNCTION shop_flow() RETURNS text LANGUAGE sql AS $flow$
  SELECT 'INSERT INTO shop_order (item, quantity) VALUES (''{item}'', {quantity}) RETURNING id, quantity' |=> 'order'
      ~> 'SELECT price * $order.quantity AS amount, stock >= $order.quantity AS enough FROM shop_item WHERE name = ''{item}'''
         |=> 'offer'
      ~> ('SELECT $offer.enough'
          ?> (df.undo('UPDATE shop_item SET stock = stock - $order.quantity WHERE name = ''{item}''',
                      'UPDATE shop_item SET stock = stock + $order.quantity WHERE name = ''{item}''')
              ~> df.undo(df.retry('SELECT shop_pay($order.id, $offer.amount)', initial_delay => '100 ms'),
                         'DELETE FROM shop_payment WHERE order_id = $order.id'
                         ~> 'UPDATE shop_order SET state = ''given back'' WHERE id = $order.id')
              ~> 'SELECT shop_send($order.id, $order.quantity)'
              ~> 'UPDATE shop_order SET state = ''completed'' WHERE id = $order.id')
          !> 'UPDATE shop_order SET state = ''rejected'' WHERE id = $order.id')
$flow$;

SELECT df.setvar('item', 'lamp'), df.setvar('quantity', '2');
SELECT df.start(shop_flow(), 'orders');
SELECT df.setvar('quantity', '9');
SELECT df.start(shop_flow(), 'orders');
SELECT df.setvar('quantity', '3');
SELECT df.start(shop_flow(), 'orders');
