CREATE TABLE sched_report (made_at timestamptz NOT NULL DEFAULT clock_timestamp(), what text NOT NULL);
