"""What `pg-durable doctor` asks. Each row of an answer is one finding, in words. None of it writes."""

INSTALLED = "select to_regclass('df_engine.release') is not null as installed, now() as now"
VERSION = "select r.version from df_engine.release r"
READ_ONLY = "set default_transaction_read_only = on"
PATIENCE = "set statement_timeout = '60s'"

STANDBY = "select 'this server is a standby: nothing runs here' where pg_is_in_recovery()"
SEES_LESS = """
select format('not examined: the runs and schedules of other roles, which role %I does not see', current_user)
where not df_engine.may_see_all(quote_ident(current_user)::regrole)
union all
select format('not examined: the sessions of other roles, which role %I does not see', current_user)
where not pg_has_role('pg_read_all_stats', 'usage')"""
WORKER_ROLE = "select 'no role is authorised as worker' where not exists (select from df_engine.worker_roles)"
WORKER_LOGIN = """
select format('worker role %s cannot log in', w.role) from df_engine.worker_roles w
join pg_roles r on r.oid = w.role where not r.rolcanlogin"""
WORKER_ALIVE = """
select coalesce('no worker is alive; the last one was seen at ' || date_trunc('second', max(w.last_seen_at)),
                'no worker is alive, and none was ever seen')
from df.workers w having not coalesce(bool_or(w.alive), false)"""
ROLE_REASONS = """
select r.reason from df_engine.role_reasons r
where exists (select from df_engine.queue q where q.submitter = r.submitter) order by r.reason limit 20"""
PAUSED = """
select distinct p.reason from df_engine.pauses_of_roles p
where df_engine.live_runs(p.submitter) > 0 order by 1 limit 20"""
NO_LOGIN = """
select format('role %I has runs and no LOGIN', r.rolname) from pg_roles r
where not r.rolcanlogin and df_engine.live_runs(r.oid) > 0 order by 1 limit 20"""
UNDO_FAILED = """
select format('run %s failed while it was undone: not all that it had done is', i.id) from df.instances i
where i.undo_status = 'failed' and i.finished_at > now() - interval '1 day' order by i.finished_at desc limit 20"""

# Settings of the server, this database and the roles that may use df: (who, name, value).
SETTINGS = """
with given as (
  select case s.setrole when 0 then 'this database' else 'role ' || quote_ident(pg_get_userbyid(s.setrole)) end as who,
         split_part(c.line, '=', 1) as name, substr(c.line, strpos(c.line, '=') + 1) as value
  from pg_db_role_setting s cross join unnest(s.setconfig) c(line)
  where s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
    and (s.setrole = 0 or has_schema_privilege(s.setrole, 'df', 'usage'))
  union all
  select 'the server', f.name, f.reset_val from pg_settings f
  where f.name in ('statement_timeout', 'transaction_timeout', 'lock_timeout', 'synchronous_commit',
                   'default_transaction_read_only')
    and f.source in ('configuration file', 'command line')
)"""
TIME_OUTS = f"""{SETTINGS}
select format('%s of %s is %s: it ends steps that take longer', g.name, g.who, g.value) from given g
where g.name in ('statement_timeout', 'transaction_timeout', 'lock_timeout') and g.value !~ '^0[a-z]*$'
order by 1 limit 20"""
READ_ONLY_ROLES = f"""{SETTINGS}
select format('default_transaction_read_only of %s is on: its sessions cannot start runs', g.who) from given g
where g.name = 'default_transaction_read_only' and lower(g.value) in ('on', 'true', 'yes', '1') order by 1 limit 20"""
NO_DISK = f"""{SETTINGS}
select format('synchronous_commit of %s is %s although commit_policy is strict', g.who, g.value) from given g
where g.name = 'synchronous_commit' and lower(g.value) in ('off', 'false', 'no', '0')
  and (select s.value from df.settings s where s.name = 'commit_policy') = 'strict' order by 1 limit 20"""

ROLES = """
with member as (
  select r.oid, quote_ident(r.rolname) as name, r.rolbypassrls as past,
         pg_has_role(r.oid, 'pg_read_all_data', 'usage') as reads,
         pg_has_role(r.oid, 'pg_write_all_data', 'usage') as writes,
         exists (select from pg_roles m
                 where m.rolname = 'pg_maintain' and pg_has_role(r.oid, m.oid, 'usage')) as maintains
  from pg_roles r where not r.rolsuper and r.rolname !~ '^pg_'
)"""
ALL_SEEING = f"""{ROLES}
select format('role %s has BYPASSRLS and pg_%s_all_data: it %s the runs of all', m.name,
              case when m.writes then 'write' else 'read' end, case when m.writes then 'changes' else 'reads' end)
from member m where m.past and (m.reads or m.writes) order by 1 limit 20"""
BYPASSRLS = f"""{ROLES}
select format('role %s has BYPASSRLS', m.name) from member m
where m.past and not m.reads and not m.writes order by 1 limit 20"""
WRITES_ALL = f"""{ROLES}
select format('role %s is a member of pg_write_all_data: it changes the tables that steps use', m.name) from member m
where m.writes and not m.past order by 1 limit 20"""
MAINTAINS = f"""{ROLES}
select format('role %s is a member of pg_maintain: it can lock the tables of all runs', m.name) from member m
where m.maintains order by 1 limit 20"""

SNAPSHOTS = """
select format('session %%s of role %%s holds a snapshot since %%s', a.pid, a.usename,
              date_trunc('second', coalesce(a.xact_start, a.query_start)))
from pg_stat_activity a
where (a.backend_xmin is not null or a.backend_xid is not null) and a.pid <> pg_backend_pid()
  and coalesce(a.xact_start, a.query_start) < clock_timestamp() - %(snapshot)s::interval
  and a.backend_type <> 'walsender'
order by a.xact_start limit 20"""
PREPARED = """
select format('prepared transaction %%s of role %%s is open since %%s', p.gid, p.owner,
              date_trunc('second', p.prepared))
from pg_prepared_xacts p where p.prepared < clock_timestamp() - %(snapshot)s::interval order by p.prepared limit 20"""
SLOTS = """
select format('replication slot %s is not used and keeps what vacuum would remove, and WAL', s.slot_name)
from pg_replication_slots s
where not s.active and (s.xmin is not null or s.catalog_xmin is not null or s.restart_lsn is not null)
order by 1 limit 20"""
AUTOVACUUM = """
select 'autovacuum is off' where not current_setting('autovacuum')::bool
union all
select 'track_counts is off, so autovacuum does nothing' where not current_setting('track_counts')::bool
union all
select format('autovacuum is off for table %s', c.oid::regclass) from pg_class c
where c.relnamespace = 'df_engine'::regnamespace
  and exists (select from unnest(c.reloptions) o
              where lower(o) in ('autovacuum_enabled=off', 'autovacuum_enabled=false'))"""
WRAPAROUND = """
select format('the oldest transaction of this database is %%s transactions old', age(d.datfrozenxid))
from pg_database d where d.datname = current_database() and age(d.datfrozenxid) > %(age)s"""
NOTIFICATIONS = """
select format('the notification queue is %%s%%%% full', round((u * 100)::numeric)) from pg_notification_queue_usage() u
where u > %(queue)s"""
SESSIONS = """
select format('%s workers may open %s sessions, the server has room for %s', w.workers,
              w.workers * (w.sessions + 3), room)
from (select (select count(*) from df.workers x where x.alive) as workers,
             (select s.value::bigint from df.settings s where s.name = 'max_user_connections') as sessions) w,
     (select current_setting('max_connections')::bigint
             - current_setting('superuser_reserved_connections')::bigint) m(room)
where w.workers * (w.sessions + 3) > room"""
CONNECTION_LIMIT = """
select format('this database allows %s connections, fewer than one worker opens', d.datconnlimit) from pg_database d
where d.datname = current_database()
  and d.datconnlimit between 0
      and (select s.value::bigint + 2 from df.settings s where s.name = 'max_user_connections')"""
OVERDUE = """
select format('%s timers are overdue, the oldest since %s', count(*), date_trunc('second', min(t.next_try_at)))
from df_engine.timers t where t.next_try_at < clock_timestamp() - interval '1 min' having count(*) > 0"""
SCHEDULES_OVERDUE = """
select format('schedule %I of role %s has been due since %s%s', s.name, s.owner, date_trunc('second', s.next_at),
              coalesce(': ' || s.wait_reason, ''))
from df.schedules s where s.next_at + s.jitter < clock_timestamp() - interval '5 min'
order by s.next_at limit 20"""
DBLINK = """
select 'loopback_dsn is set and extension dblink is not there'
from df.settings s
where s.name = 'loopback_dsn' and s.value <> '' and not exists (select from pg_extension where extname = 'dblink')"""
CHECK = """
select concat_ws(', ', c.problem, 'run ' || c.instance_id, 'node ' || c.node_id, c.detail) from df.check() c
where c.problem <> 'a role reads or writes what is of all' limit 20"""
