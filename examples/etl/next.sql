-- The first run has stopped at line 3. Somebody corrects it, another line has come in, and the flow is started once more.
UPDATE etl_clean SET amount = '12' WHERE amount = 'twelve';
INSERT INTO etl_raw VALUES (5, 'Acme', '1');
SELECT df.start(etl_flow(), 'etl');
