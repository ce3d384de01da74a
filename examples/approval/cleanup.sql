DROP FUNCTION approval_flow;
DROP TABLE approval_reminder, approval_invoice;
