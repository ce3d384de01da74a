-- Four gates: complete, affordable, reviewed, approved. Each ends the run by a rejection that says why, or opens the next
-- one. The flow is put together from the last gate to the first.
CREATE FUNCTION loan_reject(loan int, reason text) RETURNS text LANGUAGE sql AS $$
  SELECT df.sql(format('UPDATE loan SET state = ''rejected'', reason = %s WHERE id = %s', df.literal(reason), loan))
$$;

CREATE FUNCTION loan_asks(who text, loan int, next text) RETURNS text LANGUAGE sql AS $$
  SELECT df.wait_for_signal(who, 86400) |=> who
      ~> (format('SELECT coalesce($%s.data?::jsonb ->> ''decision'', ''none'') = ''approve''', who)
          ?> next
          !> loan_reject(loan, 'refused: ' || who))
$$;

CREATE FUNCTION loan_flow(loan int) RETURNS text LANGUAGE sql AS $$
  SELECT format('SELECT income IS NOT NULL FROM loan WHERE id = %s', loan)
      ?> (format('SELECT amount <= income FROM loan WHERE id = %s', loan)
          ?> loan_asks('reviewer', loan,
               loan_asks('manager', loan, df.sql(format('UPDATE loan SET state = ''approved'' WHERE id = %s', loan))))
          !> loan_reject(loan, 'not affordable'))
      !> loan_reject(loan, 'incomplete')
$$;

SELECT df.start(loan_flow(id), 'validation ' || id) FROM loan ORDER BY id;
