-- pg_durable 1.0.0 (built 2026-11-28 00:00:00 UTC): AI pipelines, for pg_durable 1.0 and pgvector 0.7 or later.
--
--   psql -v ON_ERROR_STOP=1 -f pg_durable_ai.sql
--
-- One transaction; run again it upgrades in place. Install it as the role that pg_durable was installed as. Generated: do not edit.
\set QUIET on
begin;
-- body

-- Prologue: refuses databases without what the pipelines need, makes the schema ai. All functions of ai act with the rights of their caller:
-- none is SECURITY DEFINER, so a pipeline can do nothing that its owner could not do without it.

set local client_min_messages = warning;
set local search_path = pg_catalog, pg_temp;
set local check_function_bodies = off;

do $check$
declare
  v_version text;
begin
  if to_regnamespace('df') is null or to_regprocedure('df.version()') is null then
    raise exception 'pg_durable is not installed in database "%"', current_database()
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'Install pg_durable 1.0 or later first: psql -f pg_durable.sql. Nothing has been changed.';
  end if;
  v_version := substring(df.version() from '(\d+)\.\d+');
  if v_version is null or v_version::int < 1 then
    raise exception 'the AI pipelines need pg_durable 1.0 or later, and this is %', df.version()
      using errcode = 'object_not_in_prerequisite_state', hint = 'Install it first. Nothing has been changed.';
  end if;
  v_version := (select e.extversion from pg_extension e where e.extname = 'vector');
  if v_version is null then
    raise exception 'pgvector is not installed in database "%"', current_database()
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'The AI pipelines need pgvector 0.7 or later: CREATE EXTENSION vector. Nothing has been changed.';
  elsif string_to_array(substring(v_version from '^\d+\.\d+'), '.')::int[] < array[0, 7] then
    raise exception 'the AI pipelines need pgvector 0.7 or later, and this is %', v_version
      using errcode = 'object_not_in_prerequisite_state', hint = 'ALTER EXTENSION vector UPDATE. Nothing has been changed.';
  end if;
  if to_regnamespace('ai') is not null and to_regclass('ai._release') is null then
    raise exception 'schema "ai" exists and is not pg_durable''s'
      using errcode = 'duplicate_schema', hint = 'Rename or drop schema "ai", then install again.';
  end if;
  if exists (select from pg_namespace n where n.nspname = 'ai' and n.nspowner <> quote_ident(current_user)::regrole) then
    raise exception 'schema "ai" belongs to role "%", and this is "%"',
      (select pg_get_userbyid(n.nspowner) from pg_namespace n where n.nspname = 'ai'), current_user
      using errcode = 'insufficient_privilege', hint = 'If it is pg_durable''s, install as that role. If not, rename or drop it.';
  end if;
end
$check$;

create schema if not exists ai;
comment on schema ai is 'pg_durable: AI pipelines; functions and tables that begin with an underscore are private';

create table if not exists ai._release (
  version text not null constraint _release_pkey primary key,
  installed_at timestamptz not null default now()
);
comment on table ai._release is 'One row: the installed version of the AI pipelines';

-- The tables of the pipelines. Each row belongs to a role, and row security shows it to nobody else: functions read and write them with their
-- caller's rights. What a pipeline has of its own, its sink and its queue, are tables of its owner in the schema of the sink.

create table if not exists ai.models (
  owner regrole not null default quote_ident(current_user)::regrole,
  name text not null,
  url text not null,
  model text not null,
  dimensions int not null,
  secret text,
  batch_size int not null,
  rpm int,
  tpm int,
  concurrency int not null,
  price_per_million numeric,
  timeout_seconds int not null,
  set_at timestamptz not null default now(),
  tokens_free_at timestamptz not null default '-infinity',  -- when the next request may begin, by tpm
  constraint models_pkey primary key (owner, name)
);
comment on table ai.models is
  'The models of the reader (ai.set_model): where they are, how large batches are, what they may be asked in a minute, what a million tokens costs';

create table if not exists ai._pipelines (
  id bigint generated always as identity constraint _pipelines_pkey primary key,
  owner regrole not null default quote_ident(current_user)::regrole,
  name text not null,
  definition jsonb not null,  -- source, steps, trigger, sink as they were given
  error_handling text not null constraint _pipelines_error_handling check (error_handling in ('skip', 'fail', 'pause')),
  paused boolean not null default false,
  reason text,
  created_at timestamptz not null default now(),
  constraint _pipelines_name_key unique (owner, name)
);
comment on table ai._pipelines is 'A pipeline: what it is called, what it does with texts that a model refuses, whether it is paused';

-- The tables, triggers and run that make chunks and embeddings in one way. A pipeline has one that serves, and a next one while it changes.
create table if not exists ai._generations (
  id bigint generated always as identity constraint _generations_pkey primary key,
  pipeline bigint not null constraint _generations_pipeline_fkey references ai._pipelines on delete cascade,
  owner regrole not null default quote_ident(current_user)::regrole,
  number int not null,
  serving boolean not null,
  plan jsonb not null,  -- what ai._plan has made of the definition: columns, texts, sizes
  model text not null,
  source regclass not null,
  sink regclass not null,
  queue regclass not null,
  indexed boolean not null default false,
  instance text,  -- the run that does the work
  scanning boolean not null default true,  -- rows of the source are being queued, in the order of the key
  scan_condition text,
  scan_after jsonb,  -- the key of the last row that was queued
  scan_total bigint,
  scanned bigint not null default 0,
  watermark text,  -- the largest value of incremental_column that a scan has seen
  trouble text,  -- why the last iteration failed
  trouble_at timestamptz,
  troubles int not null default 0,  -- in a row
  constraint _generations_number_key unique (pipeline, number)
);
comment on table ai._generations is 'One way of making chunks and embeddings: its sink, its queue of changed rows, its run and how far it is';

-- Texts that a model has refused. With a lot: those that were refused together, and are sent again in smaller lots until the bad one is alone.
create table if not exists ai._refusals (
  generation bigint not null constraint _refusals_generation_fkey references ai._generations on delete cascade,
  owner regrole not null default quote_ident(current_user)::regrole,
  content_hash text not null,
  lot bigint,
  error text not null,
  status int,
  doc_id text,  -- of a row that has the text, and the text: when it is alone
  chunk_text text,
  failed_at timestamptz not null default clock_timestamp(),
  constraint _refusals_pkey primary key (generation, content_hash)
);
comment on table ai._refusals is 'Texts that a model has refused: in lots that are sent again, or alone, which are failures';
create index if not exists _refusals_lots on ai._refusals (generation, lot) where lot is not null;  -- for ai._batches

create table if not exists ai._usage (
  owner regrole not null default quote_ident(current_user)::regrole,
  pipeline text not null,
  model text not null,
  hour timestamptz not null,
  requests bigint not null default 0,
  texts bigint not null default 0,
  tokens bigint not null default 0,
  cost numeric not null default 0,
  constraint _usage_pkey primary key (owner, pipeline, model, hour)
);
comment on table ai._usage is 'What was sent, in an hour, of a pipeline to a model';

create table if not exists ai._budgets (
  owner regrole not null default quote_ident(current_user)::regrole,
  kind text not null constraint _budgets_kind check (kind in ('model', 'pipeline')),
  name text not null,
  tokens bigint,
  cost numeric,
  per interval not null,
  constraint _budgets_pkey primary key (owner, kind, name)
);
comment on table ai._budgets is 'What a pipeline, or all pipelines of a model, may use in an interval (ai.set_budget)';

create table if not exists ai._query_embeddings (
  owner regrole not null default quote_ident(current_user)::regrole,
  model text not null,
  query_hash text not null,
  embedding text not null,
  made_at timestamptz not null default now(),
  constraint _query_embeddings_pkey primary key (owner, model, query_hash)
);
comment on table ai._query_embeddings is 'Embeddings of queries that ai.search uses: a SELECT can make no request';

do $policies$
begin
  alter table ai.models enable row level security;
  if not exists (select from pg_policy where polrelid = 'ai.models'::regclass) then
    create policy own_rows on ai.models using (owner = quote_ident(current_user)::regrole) with check (owner = quote_ident(current_user)::regrole);
  end if;
  alter table ai._pipelines enable row level security;
  if not exists (select from pg_policy where polrelid = 'ai._pipelines'::regclass) then
    create policy own_rows on ai._pipelines using (owner = quote_ident(current_user)::regrole) with check (owner = quote_ident(current_user)::regrole);
  end if;
  alter table ai._generations enable row level security;
  if not exists (select from pg_policy where polrelid = 'ai._generations'::regclass) then
    create policy own_rows on ai._generations using (owner = quote_ident(current_user)::regrole) with check (owner = quote_ident(current_user)::regrole);
  end if;
  alter table ai._refusals enable row level security;
  if not exists (select from pg_policy where polrelid = 'ai._refusals'::regclass) then
    create policy own_rows on ai._refusals using (owner = quote_ident(current_user)::regrole) with check (owner = quote_ident(current_user)::regrole);
  end if;
  alter table ai._usage enable row level security;
  if not exists (select from pg_policy where polrelid = 'ai._usage'::regclass) then
    create policy own_rows on ai._usage using (owner = quote_ident(current_user)::regrole) with check (owner = quote_ident(current_user)::regrole);
  end if;
  alter table ai._budgets enable row level security;
  if not exists (select from pg_policy where polrelid = 'ai._budgets'::regclass) then
    create policy own_rows on ai._budgets using (owner = quote_ident(current_user)::regrole) with check (owner = quote_ident(current_user)::regrole);
  end if;
  alter table ai._query_embeddings enable row level security;
  if not exists (select from pg_policy where polrelid = 'ai._query_embeddings'::regclass) then
    create policy own_rows on ai._query_embeddings using (owner = quote_ident(current_user)::regrole) with check (owner = quote_ident(current_user)::regrole);
  end if;
end
$policies$;

-- Models: ai.set_model and its limit, which all requests of all pipelines to the model keep.

-- The name of a model's limit: its concurrency, its requests a minute and the pauses that it asks for by 429.
create or replace function ai._limit_name(p_model text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$ select 'ai-model:' || p_model $$;

-- Requests a minute as a rate of df.set_limit, which is at most 1000 in an interval.
create or replace function ai._rate(p_rpm int, out rate int, out per interval)
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select p_rpm / s.parts, interval '1 minute' / s.parts from (select (p_rpm + 1000 - 1) / 1000 as parts) s
$$;

create or replace function ai.set_model(
  name text, url text, model text, dimensions int, secret text default null, batch_size int default 64, rpm int default null,
  tpm int default null, concurrency int default 8, price_per_million numeric default null, timeout_seconds int default 60
) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_problem constant text := case
    when set_model.name is null or octet_length(set_model.name) not between 1 and 63 then 'name must have 1 to 63 bytes'
    when set_model.url is null or set_model.url !~* '^https?://[^[:space:]]+$' then 'url must begin with http:// or https://'
    when set_model.url ~ '[${]' then 'url must not contain $ or {'
    when coalesce(set_model.model, '') = '' then 'model must not be empty'
    when set_model.dimensions is null or set_model.dimensions not between 1 and 16000 then 'dimensions must be from 1 to 16000'
    when set_model.batch_size is null or set_model.batch_size not between 1 and 2048 then 'batch_size must be from 1 to 2048'
    when set_model.rpm not between 1 and 1000000 then 'rpm must be from 1 to 1000000'
    when set_model.tpm < 1 then 'tpm must be at least 1'
    when set_model.concurrency is null or set_model.concurrency not between 1 and 1000 then 'concurrency must be from 1 to 1000'
    when set_model.price_per_million < 0 then 'price_per_million must not be negative'
    when set_model.timeout_seconds is null or set_model.timeout_seconds not between 1 and 3600 then 'timeout_seconds must be from 1 to 3600' end;
  v_rate record;
  v_old ai.models;
  g record;
begin
  if v_problem is not null then
    raise exception 'ai.set_model: %', v_problem using errcode = 'invalid_parameter_value';
  end if;
  select m.* into v_old from ai.models m where m.owner = quote_ident(current_user)::regrole and m.name = set_model.name;
  if v_old.dimensions <> set_model.dimensions and exists (
       select from ai._generations x where x.owner = quote_ident(current_user)::regrole and x.model = set_model.name) then
    raise exception 'model "%" has % dimensions, and pipelines use it: it cannot have % now', name, v_old.dimensions, dimensions
      using errcode = 'object_not_in_prerequisite_state', hint = 'Set a model of another name, and ai.alter_pipeline(..., model => ...).';
  end if;
  insert into ai.models as m (name, url, model, dimensions, secret, batch_size, rpm, tpm, concurrency, price_per_million, timeout_seconds)
  values (set_model.name, set_model.url, set_model.model, set_model.dimensions, set_model.secret, set_model.batch_size, set_model.rpm,
          set_model.tpm, set_model.concurrency, set_model.price_per_million, set_model.timeout_seconds)
  on conflict (owner, name) do update
    set url = excluded.url, model = excluded.model, dimensions = excluded.dimensions, secret = excluded.secret,
        batch_size = excluded.batch_size, rpm = excluded.rpm, tpm = excluded.tpm, concurrency = excluded.concurrency,
        price_per_million = excluded.price_per_million, timeout_seconds = excluded.timeout_seconds, set_at = now(), tokens_free_at = '-infinity';
  v_rate := ai._rate(set_model.rpm);
  perform df.set_limit(ai._limit_name(set_model.name), set_model.concurrency, v_rate.rate, coalesce(v_rate.per, interval '1 second'));
  if (v_old.url, v_old.secret, v_old.concurrency, v_old.timeout_seconds, v_old.tpm is null)
     is distinct from (set_model.url, set_model.secret, set_model.concurrency, set_model.timeout_seconds, set_model.tpm is null) then
    for g in select x.id from ai._generations x
             where x.owner = quote_ident(current_user)::regrole and x.model = set_model.name and x.instance is not null loop
      perform ai._start(g.id);  -- their flows say where the model is
    end loop;
  end if;
  return 'OK';
end
$$;
comment on function ai.set_model(text, text, text, int, text, int, int, int, int, numeric, int) is
  'Sets a model of the current user: the address of an endpoint in OpenAI''s form, the model''s name there, how many dimensions its embeddings have, the secret (df.set_secret) that goes into the Authorization header, how many texts a request carries, how many requests (rpm) and tokens (tpm, estimated) a minute and how many requests at a time all pipelines together may send, what a million tokens costs, how long a request may take. Pipelines that use it go on with what is new. Returns OK; raises 22023 for values out of range, 55000 for other dimensions while pipelines use the model';

create or replace function ai.unset_model(name text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_pipeline constant text := (
    select p.name from ai._generations g join ai._pipelines p on p.id = g.pipeline
    where g.owner = quote_ident(current_user)::regrole and g.model = unset_model.name order by p.name limit 1);
begin
  if v_pipeline is not null then
    raise exception 'pipeline "%" uses model "%"', v_pipeline, unset_model.name using errcode = 'object_not_in_prerequisite_state',
      hint = 'ai.alter_pipeline gives it another model, ai.drop_pipeline drops it.';
  end if;
  delete from ai.models m where m.owner = quote_ident(current_user)::regrole and m.name = unset_model.name;
  if found then
    perform df.set_limit(ai._limit_name(unset_model.name));
  end if;
  return 'OK';
end
$$;
comment on function ai.unset_model(text) is
  'Removes a model of the current user, and its limit; returns OK, also if there was none. Raises 55000 while a pipeline uses it';

-- A model of the caller; raises when there is none.
create or replace function ai._model(p_name text) returns ai.models
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_model ai.models;
begin
  select m.* into v_model from ai.models m where m.owner = quote_ident(current_user)::regrole and m.name = p_name;
  if not found then
    raise exception 'there is no model "%"', left(p_name, 100) using errcode = 'undefined_object',
      hint = coalesce('Models: ' || (select string_agg(m.name, ', ' order by m.name) from ai.models m
                                     where m.owner = quote_ident(current_user)::regrole) || '.', 'Set one with ai.set_model.');
  end if;
  return v_model;
end
$$;

-- Chunking: a text as pieces of a bounded size. Deterministic: the result depends on the arguments only, not on locale or encoding. Every step passes
-- through the text once, so a long text takes time in proportion to its length: pieces are cut by putting a mark behind each end, never by
-- position, because finding a position in UTF-8 means counting from the beginning.

-- Estimates tokens from above: a word counts one for each six letters begun (three if it has others than ASCII's), a sign or ideograph counts one.
create or replace function ai.count_tokens(input text) returns int
language sql immutable strict parallel safe set search_path = pg_catalog, pg_temp as $$
  select coalesce(sum(case when octet_length(m.token[1]) = length(m.token[1]) then (length(m.token[1]) + 5) / 6
                           else (length(m.token[1]) + 2) / 3 end), 0)::int
  from regexp_matches(input, $re$[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]|[^\x09-\x0d !-/:-@\[-\^`{-~\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]+|[^\x09-\x0d ]$re$, 'g') m(token)
$$;
comment on function ai.count_tokens(text) is
  'Estimates how many tokens a text has, rather too many than too few: no tokenizer is in the database. A word counts one for each six letters begun, or three where it has other letters than ASCII''s; a sign or ideograph counts one';

create or replace function ai._size(p_text text, p_unit text) returns int
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case p_unit when 'tokens' then ai.count_tokens(p_text) else length(p_text) end
$$;

-- A text in parts, each with the blanks behind it, so that together they are the text: 1 paragraphs, 2 sentences, 3 words.
create or replace function ai._split(p_text text, p_level int) returns setof text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select s.part
  from (select case when strpos(p_text, chr(57344)) = 0 then chr(57344) else (
          select chr(n) from generate_series(57345, 63743) n where strpos(p_text, chr(n)) = 0 limit 1) end as mark) m,
    string_to_table(case when m.mark is null then p_text else regexp_replace(p_text, case p_level
      when 1 then $re$(\n[ \t\r]*\n[\x09-\x0d ]*)$re$
      when 2 then $re$([.!?\u2026]+["'\u0029\u005d\u00bb\u201d\u2019]*[\x09-\x0d ]+|[\u3002\uff01\uff1f]+[\u300d\u300f\u201d\u2019]*[\x09-\x0d ]*|\n[ \t\r]*\n[\x09-\x0d ]*)$re$
      else $re$([\x09-\x0d ]+)$re$ end, '\1' || m.mark, 'g') end, m.mark) s(part)
  where s.part <> ''
$$;

-- A text in slices of so many characters.
create or replace function ai._slice(p_text text, p_size int) returns setof text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select string_agg(c.letter, '' order by c.place)
  from string_to_table(p_text, null) with ordinality c(letter, place)
  group by (c.place - 1) / p_size
  order by (c.place - 1) / p_size
$$;

-- The parts of a text that are no larger than p_room, as coarse as that allows, in order; together they are the text.
create or replace function ai._pieces(p_text text, p_level int, p_room int, p_unit text, out piece text, out size int) returns setof record
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  for piece in select s from ai._split(p_text, p_level) s loop
    size := ai._size(piece, p_unit);
    if size <= p_room then
      return next;
    elsif p_level < 3 then
      return query select * from ai._pieces(piece, p_level + 1, p_room, p_unit);
    else  -- so many characters are never more tokens
      return query select s, ai._size(s, p_unit) from ai._slice(piece, p_room) s;
    end if;
  end loop;
end
$$;

-- The end of a chunk that the next one begins with: as many whole words, or sentences, as fit; of one long word its end.
create or replace function ai._tail(p_chunk text, p_level int, p_overlap int, p_unit text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when p_overlap = 0 then '' else coalesce(
    (select string_agg(w.part, '' order by w.place)
     from (select s.part, s.place, sum(ai._size(s.part, p_unit)) over (order by s.place desc) as size
           from ai._split(p_chunk, p_level) with ordinality s(part, place)) w
     where w.size <= p_overlap),
    case when p_level = 3 and p_unit <> 'tokens' then right(p_chunk, p_overlap) end, '') end
$$;

-- Fills chunks with pieces. p_level: the coarsest kind of piece.
create or replace function ai._pack(
  p_text text, p_level int, p_size int, p_overlap int, p_unit text, out chunk text, out place int
) returns setof record
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_chunk text := '';
  v_size int := 0;
  v_start int := 1;
  v_new boolean := false;  -- whether it has more than the end of the one before
  v_tail text;
  p record;
begin
  if length(p_text) <= p_size then  -- so many characters are never more tokens
    if p_text ~ '[^\x09-\x0d ]' then
      chunk := btrim(p_text, E' \t\n\x0b\f\r');
      place := 1 + length(p_text) - length(ltrim(p_text, E' \t\n\x0b\f\r'));
      return next;
    end if;
    return;
  end if;
  for p in select s.piece, s.size from ai._pieces(p_text, p_level, p_size - p_overlap, p_unit) s
           union all select null, null
  loop
    if p.piece is null or v_chunk <> '' and v_size + p.size > p_size then
      if v_new then
        chunk := btrim(v_chunk, E' \t\n\x0b\f\r');
        place := v_start + length(v_chunk) - length(ltrim(v_chunk, E' \t\n\x0b\f\r'));
        return next;
      end if;
      v_tail := ai._tail(v_chunk, case when p_level = 2 then 2 else 3 end, p_overlap, p_unit);
      v_start := v_start + length(v_chunk) - length(v_tail);
      v_chunk := v_tail;
      v_size := ai._size(v_tail, p_unit);
      v_new := false;
    end if;
    v_chunk := v_chunk || coalesce(p.piece, '');
    v_size := v_size + coalesce(p.size, 0);
    v_new := v_new or p.piece ~ '[^\x09-\x0d ]';
  end loop;
end
$$;

-- Chunks of exactly so many characters, but the last.
create or replace function ai._fixed(p_text text, p_size int, p_overlap int, out chunk text, out place int) returns setof record
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select btrim(c.text, E' \t\n\x0b\f\r'), c.start + length(c.text) - length(ltrim(c.text, E' \t\n\x0b\f\r'))
  from (select s.part || coalesce(left(lead(s.part) over (order by s.place), p_overlap), '') as text,
               ((s.place - 1) * (p_size - p_overlap))::int + 1 as start,
               lag(length(s.part)) over (order by s.place) is not null and length(s.part) <= p_overlap as contained
        from ai._slice(p_text, p_size - p_overlap) with ordinality s(part, place)) c
  where not c.contained and c.text ~ '[^\x09-\x0d ]'
  order by c.start
$$;

-- The sections of a Markdown text, each with its heading and the headings above it. Lines between ``` or ~~~ are no headings.
create or replace function ai._sections(p_text text, out section text, out headings text[], out place int) returns setof record
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_path text[] := '{}';
  v_depth int;
  s record;
begin
  place := 1;
  for s in
    select string_agg(l.line, '' order by l.no) as text, min(l.line) filter (where l.heading) as first
    from (select k.*, count(*) filter (where k.heading) over (order by k.no) as section
          from (select f.no, f.line, f.line ~ '^ {0,3}#{1,6}([ \t]|\r?\n|$)' and f.fences % 2 = 0 as heading
                from (select n.no, n.line || case when n.no < count(*) over () then E'\n' else '' end as line,
                             count(*) filter (where n.line ~ '^ {0,3}(```|~~~)') over (order by n.no) as fences
                      from string_to_table(p_text, E'\n') with ordinality n(line, no)) f) k) l
    group by l.section order by l.section
  loop
    if s.first is not null then
      v_depth := length(substring(s.first from '#+'));
      v_path := v_path[:v_depth - 1] || array_fill(null::text, array[greatest(v_depth - 1 - cardinality(v_path), 0)])
        || btrim(regexp_replace(s.first, '^ {0,3}#+[ \t]*|[ \t]+#+[ \t\r\n]*$', '', 'g'), E' \t\n\x0b\f\r');
    end if;
    section := s.text;
    headings := array_remove(v_path, null);
    return next;
    place := place + length(s.text);
  end loop;
end
$$;

-- The chunks of a text by a method that is built in.
create or replace function ai._chunks(
  p_text text, p_method text, p_size int, p_overlap int, p_unit text, out chunk_text text, out place int, out headings text[]
) returns setof record
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select c.chunk, s.place + c.place - 1, s.headings
  from ai._sections(p_text) s, ai._pack(s.section, 1, p_size, p_overlap, p_unit) c where p_method = 'markdown'
  union all
  select c.chunk, c.place, null from ai._fixed(p_text, p_size, p_overlap) c where p_method = 'fixed' and p_unit <> 'tokens'
  union all
  select c.chunk, c.place, null
  from ai._pack(p_text, case p_method when 'recursive' then 1 when 'sentence' then 2 else 3 end, p_size, p_overlap, p_unit) c
  where p_method in ('recursive', 'sentence') or p_method = 'fixed' and p_unit = 'tokens'
  union all
  select btrim(p_text, E' \t\n\x0b\f\r'), 1 + length(p_text) - length(ltrim(p_text, E' \t\n\x0b\f\r')), null
  where p_method = 'none' and p_text ~ '[^\x09-\x0d ]'
  order by 2
$$;

-- What is wrong with a way of chunking, NULL when nothing is. A method that is none of ours is the name of a function, with its schema.
create or replace function ai._chunk_problem(p_method text, p_size int, p_overlap int, p_unit text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case
    when p_method is null or p_size is null or p_overlap is null or p_unit is null then 'method, chunk_size, overlap and unit must not be NULL'
    when p_unit not in ('characters', 'tokens') then format('unit must be characters or tokens, and is %s', p_unit)
    when p_size not between 1 and 1000000 then format('chunk_size must be from 1 to 1000000, and is %s', p_size)
    when p_overlap < 0 or p_overlap > p_size / 2 then format('overlap must be from 0 to half of chunk_size, %s, and is %s', p_size / 2, p_overlap)
    when p_method not in ('recursive', 'sentence', 'markdown', 'fixed', 'none')
         and to_regprocedure(p_method || '(text, jsonb)') is null
      then format('method must be recursive, sentence, markdown, fixed, none, or the name of a function (text, jsonb) with its schema, and is %s', p_method)
    end
$$;

create or replace function ai.chunk_text(
  input text, method text default 'recursive', chunk_size int default 512, overlap int default 64, unit text default 'characters',
  out chunk_index int, out chunk_text text, out place int, out headings text[]
) returns setof record
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_problem constant text := ai._chunk_problem(method, chunk_size, overlap, unit);
begin
  if v_problem is not null then
    raise exception 'ai.chunk_text: %', v_problem using errcode = 'invalid_parameter_value';
  elsif method in ('recursive', 'sentence', 'markdown', 'fixed', 'none') then
    return query
      select (row_number() over (order by c.place))::int - 1, c.chunk_text, c.place, c.headings
      from ai._chunks(input, method, chunk_size, overlap, unit) c;
  else
    return query execute format(
      'select (row_number() over ())::int - 1, c.c, null::int, null::text[] from %s($1, $2) c(c)',
      (select format('%s.%I', p.pronamespace::regnamespace, p.proname) from pg_proc p
       where p.oid = to_regprocedure(method || '(text, jsonb)')))
      using input, jsonb_build_object('chunk_size', chunk_size, 'overlap', overlap, 'unit', unit);
  end if;
end
$$;
comment on function ai.chunk_text(text, text, int, int, text) is
  'The chunks of a text, in order, none larger than chunk_size characters or tokens (unit; ai.count_tokens), each beginning with up to overlap of the end of the one before. method: recursive (paragraphs, else sentences, else words), sentence (whole sentences while they fit), markdown (by headings, which headings names; then recursive), fixed (exactly so many characters), none (all of it), or the name of a function (text, jsonb) returning setof text, with its schema. place: where in the text it begins, from 1. Deterministic. Raises 22023 for sizes out of range and a method that is none';

-- Usage and budgets: what was sent, what it costs, what may be.

create or replace view ai.usage with (security_barrier) as
  select u.pipeline, u.model, (u.hour at time zone 'UTC')::date as day, sum(u.requests)::bigint as requests, sum(u.texts)::bigint as texts,
         sum(u.tokens)::bigint as tokens, round(sum(u.cost), 6) as cost
  from ai._usage u
  where u.owner = (select quote_ident(current_user)::regrole)
  group by 1, 2, 3;
comment on view ai.usage is
  'What the reader''s pipelines have sent, by pipeline, model and day in UTC: requests that were answered, texts, tokens as the endpoint counts them, and their cost by the price of the time';

create or replace view ai.failures with (security_barrier) as
  select p.name as pipeline, g.number as generation, r.doc_id, r.chunk_text, r.error, r.status, r.failed_at, r.content_hash
  from ai._refusals r join ai._generations g on g.id = r.generation join ai._pipelines p on p.id = g.pipeline
  where r.owner = (select quote_ident(current_user)::regrole) and r.lot is null;
comment on view ai.failures is
  'The texts of the reader''s pipelines that a model has refused when they were sent alone: why, with the HTTP status, and the key of a row that has the text. They are not sent again before ai.retry_failures, or before the text changes';

-- Notes what a request has used.
create or replace function ai._note_usage(p_pipeline text, p_model ai.models, p_texts int, p_tokens bigint) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  insert into ai._usage as u (pipeline, model, hour, requests, texts, tokens, cost)
  values (p_pipeline, p_model.name, date_trunc('hour', clock_timestamp(), 'UTC'), 1, p_texts, coalesce(p_tokens, 0),
          coalesce(p_tokens * p_model.price_per_million / 1000000, 0))
  on conflict (owner, pipeline, model, hour) do update
    set requests = u.requests + 1, texts = u.texts + excluded.texts, tokens = u.tokens + excluded.tokens, cost = u.cost + excluded.cost
$$;

create or replace function ai.set_budget(
  model text default null, pipeline text default null, tokens bigint default null, cost numeric default null, per interval default '1 day'
) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  v_kind constant text := case when model is null then 'pipeline' else 'model' end;
  v_name constant text := coalesce(model, pipeline);
  g record;
begin
  if num_nonnulls(model, pipeline) <> 1 then
    raise exception 'ai.set_budget: name a model or a pipeline' using errcode = 'invalid_parameter_value';
  elsif tokens < 0 or cost < 0 or per < interval '1 hour' or per is null then
    raise exception 'ai.set_budget: tokens and cost must not be negative, and per must be an hour at least'
      using errcode = 'invalid_parameter_value';
  elsif v_kind = 'model' then
    perform ai._model(model);
  else
    perform ai._pipeline(pipeline);
  end if;
  delete from ai._budgets b where b.owner = (select quote_ident(current_user)::regrole) and b.kind = v_kind and b.name = v_name;
  if num_nonnulls(tokens, cost) > 0 then
    insert into ai._budgets (kind, name, tokens, cost, per) values (v_kind, v_name, tokens, cost, per);
  end if;
  for g in select x.id from ai._generations x where x.owner = (select quote_ident(current_user)::regrole) loop
    perform df.poke(ai._key(g.id));
  end loop;
  return 'OK';
end
$$;
comment on function ai.set_budget(text, text, bigint, numeric, interval) is
  'Sets how many tokens, or how much money, one pipeline, or all pipelines of a model of the current user, may use within any time of the length per, counted by full hours. When it is used up they begin no request, ai.status says why, and they go on when time has passed or the budget is raised; requests under way end. Both NULL removes it. Returns OK; raises 22023 and 42704';

-- Why a pipeline may begin no request: the budget that is used up; NULL: it may.
create or replace function ai._budget_spent(p_pipeline text, p_model text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('the budget of %s "%s" is used up: %s of %s in %s', b.kind, b.name,
                case when u.tokens >= b.tokens then u.tokens || ' tokens' else round(u.cost, 4)::text end,
                case when u.tokens >= b.tokens then b.tokens::text else b.cost::text end, b.per)
  from ai._budgets b
  cross join lateral (
    select coalesce(sum(x.tokens), 0) as tokens, coalesce(sum(x.cost), 0) as cost from ai._usage x
    where x.owner = b.owner and x.hour > clock_timestamp() - b.per - interval '1 hour'
      and case b.kind when 'model' then x.model else x.pipeline end = b.name) u
  where b.owner = (select quote_ident(current_user)::regrole) and b.name = case b.kind when 'model' then p_model else p_pipeline end
    and (u.tokens >= b.tokens or u.cost >= b.cost)
  limit 1
$$;

-- Access: who may have pipelines.

create or replace function ai.grant_usage(role_name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  execute format('grant usage on schema ai to %I', role_name);
  execute format('grant select, insert, update, delete on ai.models, ai._pipelines, ai._generations, ai._refusals, ai._usage, ai._budgets, '
                 'ai._query_embeddings to %I', role_name);
  execute format('grant select on ai.failures, ai.usage to %I', role_name);
end
$$;
comment on function ai.grant_usage(text) is
  'Lets a role have models and pipelines of its own. It needs df.grant_usage(role, include_http => true) as well, and df.http_allow for the hosts of its models. For the owner of the schema ai';

create or replace function ai.revoke_usage(role_name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  execute format('revoke all on all tables in schema ai from %I', role_name);
  execute format('revoke usage on schema ai from %I', role_name);
end
$$;
comment on function ai.revoke_usage(text) is 'Takes back what ai.grant_usage grants; the role''s pipelines fail at their next step. For the owner of the schema ai';

create or replace function ai.version() returns text
language sql stable set search_path = pg_catalog, pg_temp as $$ select '1.0.0'::text $$;
comment on function ai.version() is 'The version of the AI pipelines, which is that of the pg_durable they were built with';

-- Epilogue: the version.

insert into ai._release (version) select '1.0.0' where not exists (select from ai._release);
update ai._release set version = '1.0.0', installed_at = now() where version <> '1.0.0';

commit;
