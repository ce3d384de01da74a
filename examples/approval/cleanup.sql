DROP FUNCTION approval_flow;
DROP TABLE approval_invoice;
