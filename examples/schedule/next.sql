-- Something arrives while the poller waits.
INSERT INTO sched_inbox VALUES ('c');
