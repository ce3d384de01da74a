-- Lines as a supplier delivers them, and where they go. One amount cannot be read.
CREATE TABLE etl_raw (line int PRIMARY KEY, customer text, amount text);
CREATE TABLE etl_clean (line int PRIMARY KEY, customer text NOT NULL, amount text NOT NULL);
CREATE TABLE etl_sale (line int PRIMARY KEY, customer text NOT NULL, amount numeric NOT NULL);
CREATE TABLE etl_total (customer text PRIMARY KEY, amount numeric NOT NULL);
INSERT INTO etl_raw VALUES (1, ' Acme', '10.50'), (2, 'ACME ', ' 4.50'), (3, 'Globex', 'twelve'), (4, 'Globex', NULL);
