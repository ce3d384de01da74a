"""The tests: real servers, no mocks of the database, no elapsed time that counts."""
