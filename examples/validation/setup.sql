-- Applications for a loan. The machine looks first, then two people.
CREATE TABLE loan (
  id int PRIMARY KEY, applicant text NOT NULL, amount numeric NOT NULL, income numeric,
  state text NOT NULL DEFAULT 'new', reason text
);
INSERT INTO loan VALUES (1, 'Ann', 1000, 3000), (2, 'Bob', 1000, 2000), (3, 'Cy', 5000, 1000), (4, 'Di', 100, NULL);
