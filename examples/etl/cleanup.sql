DROP FUNCTION etl_flow;
DROP TABLE etl_raw, etl_clean, etl_sale, etl_total;
