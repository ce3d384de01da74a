-- A shop with a stock, a payment gateway that does not answer the first time it is called, and a carrier of small parcels.
CREATE TABLE shop_item (name text PRIMARY KEY, price numeric NOT NULL, stock int NOT NULL CHECK (stock >= 0));
INSERT INTO shop_item VALUES ('lamp', 40, 5);
CREATE TABLE shop_order (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text NOT NULL, quantity int NOT NULL,
  state text NOT NULL DEFAULT 'new'
);
CREATE TABLE shop_payment (order_id int PRIMARY KEY, amount numeric NOT NULL);
CREATE SEQUENCE shop_gateway_call;

CREATE FUNCTION shop_pay(order_id int, amount numeric) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF nextval('shop_gateway_call') = 1 THEN
    RAISE EXCEPTION 'the gateway does not answer' USING errcode = 'connection_failure';
  END IF;
  INSERT INTO shop_payment VALUES (order_id, amount);
END
$$;

CREATE FUNCTION shop_send(order_id int, quantity int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF quantity > 2 THEN
    RAISE EXCEPTION 'the parcel is too large';
  END IF;
END
$$;
