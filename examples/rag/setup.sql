-- Documents that are to be found by what they mean. touched is a column that pipelines do not look at.
CREATE TABLE documents (
  id int PRIMARY KEY,
  topic text NOT NULL,
  lang text NOT NULL,
  title text NOT NULL,
  body text NOT NULL,
  touched timestamptz
);
