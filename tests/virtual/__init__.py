"""`df.test`: a flow to its end in one transaction, in virtual time."""
