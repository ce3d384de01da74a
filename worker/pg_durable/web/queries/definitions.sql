-- definitions: the newest version of each.
select distinct on (d.name, d.owner::text) d.name, d.owner::text as owner, d.version, left(d.flow, 200) as flow, d.comment,
       d.created_at, d.created_by::text as created_by,
       sum(d.live_instances) over (partition by d.name, d.owner) as live,
       count(*) over (partition by d.name, d.owner) as versions
from df.definitions d
order by d.name, d.owner::text, d.version desc
limit %(limit)s;

-- versions: all versions of one, the newest first.
select d.version, d.flow, d.comment, d.created_at, d.created_by::text as created_by, d.live_instances
from df.definitions d
where d.name = %(called)s and d.owner = to_regrole(%(owner)s)
order by d.version desc
limit 100;

-- picture: its graph.
select df.svg(df.flow(%(flow)s)) as svg;

-- scheduled: schedules that start it.
select s.name, s.owner::text as owner, s.cron, s.flow
from df.schedules s
where s.owner = to_regrole(%(owner)s) and strpos(s.flow, '@' || %(called)s) > 0
order by s.name
limit 100;

-- callers: definitions whose newest version calls it.
select distinct d.name, d.owner::text as owner
from df.definitions d
where d.owner = to_regrole(%(owner)s) and d.name <> %(called)s and strpos(d.flow, '@' || %(called)s) > 0
order by d.name
limit 100;

-- start: a run of it.
select df.start(%(what)s, %(label)s, input => %(input)s::jsonb) as answer;

-- define: a new one, or a new version.
select df.define(%(called)s, df.flow(%(flow)s), %(comment)s) as answer;

-- me: whose a definition is that I make.
select quote_ident(current_user) as role;
