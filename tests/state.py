"""What tests must know of the engine's private state: the only place that names its tables."""

WORK_IS_LEFT = """
select exists (select from df_engine.queue) or exists (select from df_engine.inbox where fresh)
    or exists (select from df_engine.timers where due_at <= df_engine.clock())"""

UNLOCKED_WORK_IS_LEFT = """
select exists (select from (select from df_engine.queue for update skip locked) r)
    or exists (select from df_engine.inbox where fresh)
    or exists (select from df_engine.timers where due_at <= df_engine.clock())"""

UNFINISHED = """
select exists (select from df_engine.instances where status in ('pending', 'running'))
    or exists (select from df_engine.queue) or exists (select from df_engine.timers)
    or exists (select from df_engine.inbox where fresh)"""

# A log of all that happens to nodes, as public.log, in the order of commits where one transaction waits for another.
LOG = """
create table public.log (id bigint generated always as identity, tx xid8 default pg_current_xact_id(), run text,
                         node text, status text, stamp text, retry_at timestamptz, result jsonb);
create function public.note(p_instance bigint, p_node int, p_status text, p_generations int[], p_retry_at timestamptz,
                            p_result jsonb) returns void language sql as $$
  insert into public.log (run, node, status, stamp, retry_at, result)
  select i.id, df_engine.node_id(i.id, g.node), p_status, df_engine.stamp(i.id, g.tops, p_generations), p_retry_at,
         p_result
  from df_engine.instances i join df_engine.graph_nodes g on g.graph = i.graph and g.node = p_node
  where i.instance = p_instance
$$;
create function public.note_outcome() returns trigger language plpgsql security definer as $$
begin
  perform public.note(new.instance, new.node,
                      case new.state when 'f' then 'failed' when 'r' then 'running' else 'completed' end,
                      new.generations,
                      case new.state when 'r' then new.ended_at end,
                      case new.state when 'f' then to_jsonb(new.error) else new.value::jsonb end);
  return null;
end $$;
create function public.note_wait() returns trigger language plpgsql security definer as $$
begin
  perform public.note(new.instance, new.node, 'running', new.generations, null, null);
  return null;
end $$;
create trigger note after insert or update on df_engine.outcomes
  for each row when (new.state <> 'o') execute function public.note_outcome();
create trigger note after insert on df_engine.waits for each row execute function public.note_wait();
"""
