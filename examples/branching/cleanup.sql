DROP TABLE branch_ticket, branch_action, branch_comment;
