-- workers: the processes, those that are alive first.
select w.worker, w.role::text as role, w.started_at, w.last_seen_at, w.silent_for, w.alive, w.leases
from df.workers w
order by w.alive desc, w.last_seen_at desc
limit 200;

-- lanes: what is ready to run, and what runs, by lane.
select q.lane, sum(q.ready)::bigint as ready, sum(q.running)::bigint as running, max(q.slots) as slots,
       max(q.oldest_age) as oldest_age
from df.queue q
group by q.lane
order by q.lane;
