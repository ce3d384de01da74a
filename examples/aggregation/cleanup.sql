DROP MATERIALIZED VIEW agg_report;
DROP TABLE agg_sale, agg_total;
