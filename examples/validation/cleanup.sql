DROP FUNCTION loan_flow, loan_asks, loan_reject;
DROP TABLE loan;
