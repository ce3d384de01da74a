-- limits: what steps run within, and what is in use.
select l.name, l.owner::text as owner, l.shared, l.concurrency, l.in_use, l.waiting, l.waiting_keys, l.waiting_since,
       l.rate, l.per, l.granted, l.paused_until, l.set_at,
       case when l.shared then m.administrator else l.owner = to_regrole(quote_ident(current_user)) end as may_change
from df.limits l
cross join (select has_function_privilege('df.set_setting(text, text)', 'execute') as administrator) m
where (%(called)s is null or l.name = %(called)s and l.shared = %(shared)s
       and (l.shared or l.owner = to_regrole(quote_ident(current_user))))
order by l.waiting desc, l.in_use desc, l.name, l.owner::text
limit %(limit)s;

-- roles: what roles may have at a time, and have.
select coalesce(l.role, q.role)::text as role, l.sessions, l.sessions_in_use, l.http, l.http_in_use, l.live_instances,
       l.live_instances_in_use, q.running, q.ready, q.slots
from df.role_limits l
full join (
  select q.role, sum(q.running) as running, sum(q.ready) as ready, max(q.slots) as slots
  from df.queue q group by q.role) q on q.role = l.role
where %(role)s is null or coalesce(l.role, q.role)::text = %(role)s
order by 1
limit %(limit)s;

-- rights: whether this role may change what concerns all.
select has_function_privilege('df.set_role_limit(text, integer, integer, integer)', 'execute') as administrator;

-- set: changes a limit.
select df.set_limit(%(called)s, %(concurrency)s::int, %(rate)s::int, %(per)s::interval, %(shared)s) as answer;

-- role: changes what a role may have.
select df.set_role_limit(%(role)s, %(sessions)s::int, %(http)s::int, %(live)s::int) as answer;

-- plain: the name of a role, as df.set_role_limit takes it.
select r.rolname as name from pg_catalog.pg_roles r where r.oid = to_regrole(%(role)s);
