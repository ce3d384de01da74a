-- Tickets, and what is to be done about them.
CREATE TABLE branch_ticket (id int PRIMARY KEY, severity int NOT NULL, text text NOT NULL);
INSERT INTO branch_ticket VALUES (1, 9, 'server on fire'), (2, 5, 'printer jammed'), (3, 1, 'wrong colour');
CREATE TABLE branch_action (ticket int NOT NULL, action text NOT NULL);
CREATE TABLE branch_comment (ticket int NOT NULL, text text NOT NULL);
INSERT INTO branch_comment VALUES (1, 'hurry!');
