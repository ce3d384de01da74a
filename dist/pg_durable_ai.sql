-- pg_durable_ai 1.0.0 (built 2026-11-28 00:00:00 UTC): part of pg_durable, for PostgreSQL 14 to 18.
--
--   psql -v ON_ERROR_STOP=1 -f pg_durable_ai.sql
--
-- One transaction; no superuser needed; run again it changes nothing. Generated: do not edit.
\set QUIET on
begin;
-- body
-- The beginning of whatever is installed by a file of its own.

set local client_min_messages = warning;
set local search_path = pg_catalog, pg_temp;
set local check_function_bodies = off;

do $check$
begin
  if current_setting('server_version_num')::int < 140000 then
    raise exception 'pg_durable needs PostgreSQL 14 or later, this is %', current_setting('server_version')
      using errcode = 'feature_not_supported';
  end if;
end
$check$;

-- Prologue: refuses databases without what the pipelines need, makes the schema ai. All functions of ai act with the rights of their caller:
-- none is SECURITY DEFINER, so a pipeline can do nothing that its owner could not do without it.

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
-- caller's rights. What belongs to a row is of the same owner, so that nobody gives others, who may see all, something to run. What a pipeline has of its own, its sink and its queue, are tables of its owner in the schema of the sink.

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
  constraint _pipelines_name_key unique (owner, name),
  constraint _pipelines_owner_key unique (id, owner)
);
comment on table ai._pipelines is 'A pipeline: what it is called, what it does with texts that a model refuses, whether it is paused';

-- The tables, triggers and run that make chunks and embeddings in one way. A pipeline has one that serves, and a next one while it changes.
create table if not exists ai._generations (
  id bigint generated always as identity constraint _generations_pkey primary key,
  pipeline bigint not null,
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
  constraint _generations_number_key unique (pipeline, number),
  constraint _generations_owner_key unique (id, owner),
  constraint _generations_pipeline_fkey foreign key (pipeline, owner) references ai._pipelines (id, owner) on delete cascade
);
comment on table ai._generations is 'One way of making chunks and embeddings: its sink, its queue of changed rows, its run and how far it is';

-- Texts that a model has refused. With a lot: those that were refused together, and are sent again in smaller lots until the bad one is alone.
create table if not exists ai._refusals (
  generation bigint not null,
  owner regrole not null default quote_ident(current_user)::regrole,
  content_hash text not null,
  lot bigint,
  error text not null,
  status int,
  doc_id text,  -- of a row that has the text, and the text: when it is alone
  chunk_text text,
  failed_at timestamptz not null default clock_timestamp(),
  constraint _refusals_pkey primary key (generation, content_hash),
  constraint _refusals_generation_fkey foreign key (generation, owner) references ai._generations (id, owner) on delete cascade
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
  alter table ai.models enable row level security, force row level security;
  if not exists (select from pg_policy where polrelid = 'ai.models'::regclass) then
    create policy own_rows on ai.models using (owner = quote_ident(current_user)::regrole) with check (owner = quote_ident(current_user)::regrole);
  end if;
  alter table ai._pipelines enable row level security, force row level security;
  if not exists (select from pg_policy where polrelid = 'ai._pipelines'::regclass) then
    create policy own_rows on ai._pipelines using (owner = quote_ident(current_user)::regrole) with check (owner = quote_ident(current_user)::regrole);
  end if;
  alter table ai._generations enable row level security, force row level security;
  if not exists (select from pg_policy where polrelid = 'ai._generations'::regclass) then
    create policy own_rows on ai._generations using (owner = quote_ident(current_user)::regrole) with check (owner = quote_ident(current_user)::regrole);
  end if;
  alter table ai._refusals enable row level security, force row level security;
  if not exists (select from pg_policy where polrelid = 'ai._refusals'::regclass) then
    create policy own_rows on ai._refusals using (owner = quote_ident(current_user)::regrole) with check (owner = quote_ident(current_user)::regrole);
  end if;
  alter table ai._usage enable row level security, force row level security;
  if not exists (select from pg_policy where polrelid = 'ai._usage'::regclass) then
    create policy own_rows on ai._usage using (owner = quote_ident(current_user)::regrole) with check (owner = quote_ident(current_user)::regrole);
  end if;
  alter table ai._budgets enable row level security, force row level security;
  if not exists (select from pg_policy where polrelid = 'ai._budgets'::regclass) then
    create policy own_rows on ai._budgets using (owner = quote_ident(current_user)::regrole) with check (owner = quote_ident(current_user)::regrole);
  end if;
  alter table ai._query_embeddings enable row level security, force row level security;
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
  if (v_old.model, v_old.dimensions) <> (set_model.model, set_model.dimensions) and exists (
       select from ai._generations x where x.owner = quote_ident(current_user)::regrole and x.model = set_model.name) then
    raise exception 'pipelines use model "%", which is % with % dimensions: it cannot be % with % now', set_model.name, v_old.model,
      v_old.dimensions, set_model.model, set_model.dimensions
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
  'Sets a model of the current user: the address of an endpoint in OpenAI''s form, the model''s name there, how many dimensions its embeddings have, the secret (df.set_secret) that goes into the Authorization header, how many texts a request carries, how many requests (rpm) and tokens (tpm, estimated) a minute and how many requests at a time all pipelines together may send, what a million tokens costs, how long a request may take. Pipelines that use it go on with what is new. Returns OK; raises 22023 for values out of range, 55000 for another model or other dimensions while pipelines use it';

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

-- Builders: what create_pipeline is made of. Each returns JSON; what needs the database is checked when the pipeline is created.

create or replace function ai.table_source(
  table_name regclass, incremental_column text default null, columns text[] default null, filter text default null,
  enable_always boolean default false
) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$
  select jsonb_strip_nulls(jsonb_build_object('kind', 'table', 'table', table_name::text, 'incremental_column', incremental_column,
    'columns', to_jsonb(columns), 'filter', filter, 'enable_always', enable_always))
$$;
comment on function ai.table_source(regclass, text, text[], text, boolean) is
  'A table, with a primary key, whose rows are a pipeline''s documents. columns: those that become the metadata of chunks, by default all but the key, the text and incremental_column; a change of others is no change. filter: a condition on a row. incremental_column: one that grows with each change, such as updated_at: runs that are not triggered by changes begin where it was. enable_always: the triggers fire for rows that replication applies, too';

create or replace function ai.chunk(
  input text, chunk_size int default 512, overlap int default 64, method text default 'recursive', unit text default 'characters',
  template text default null
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_problem constant text := coalesce(ai._chunk_problem(method, chunk_size, overlap, unit),
    case when input is null then 'input must not be NULL'
         when strpos(template, '{chunk}') = 0 then 'template must contain {chunk}' end);
begin
  if v_problem is not null then
    raise exception 'ai.chunk: %', v_problem using errcode = 'invalid_parameter_value';
  end if;
  return jsonb_strip_nulls(jsonb_build_object('kind', 'chunk', 'input', input, 'chunk_size', chunk_size, 'overlap', overlap,
    'method', method, 'unit', unit, 'template', template));
end
$$;
comment on function ai.chunk(text, int, int, text, text, text) is
  'The step of a pipeline that cuts a column into chunks, as ai.chunk_text does. template: what becomes of each chunk before it is embedded and stored, with {chunk} and columns of the row: ''{title}: {chunk}''. Raises 22023 for sizes out of range, a method that is none and a template without {chunk}';

create or replace function ai.embed(
  model text, input text default 'chunk_text', dimensions int default null, batch_size int default null, vector_type text default 'halfvec'
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_problem constant text := case
    when model is null or input is null then 'model and input must not be NULL'
    when vector_type is null or vector_type not in ('halfvec', 'vector') then 'vector_type must be halfvec or vector'
    when batch_size not between 1 and 2048 then 'batch_size must be from 1 to 2048' end;
begin
  if v_problem is not null then
    raise exception 'ai.embed: %', v_problem using errcode = 'invalid_parameter_value';
  end if;
  return jsonb_strip_nulls(jsonb_build_object('kind', 'embed', 'model', model, 'input', input, 'dimensions', dimensions,
    'batch_size', batch_size, 'vector_type', vector_type));
end
$$;
comment on function ai.embed(text, text, int, int, text) is
  'The step of a pipeline that embeds: the chunks (input chunk_text), or a column of the source where the pipeline has no chunks, by a model (ai.set_model). dimensions: if given, they must be the model''s. vector_type: halfvec, two bytes a dimension, or vector, four. Raises 22023';

create or replace function ai.table_sink(
  table_name text, create_table boolean default true, text_search text default 'english', foreign_key boolean default true
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if table_name is null or cardinality(parse_ident(table_name)) > 2 or table_name ~ '[${}]' then
    raise exception 'ai.table_sink: table_name must be the name of a table, with or without a schema, and without $, { and }'
      using errcode = 'invalid_parameter_value';
  end if;
  return jsonb_build_object('kind', 'table', 'table', table_name, 'create_table', create_table, 'text_search', text_search::regconfig::text,
    'foreign_key', foreign_key);
end
$$;
comment on function ai.table_sink(text, boolean, text, boolean) is
  'The table that a pipeline fills, by default a new one, in the schema of the source unless it says another: doc_id (for a key of several columns doc_ and the name of each), chunk_index, chunk_text, embedding, metadata, model, content_hash, and chunk_tsv for full text search in the configuration text_search; with a foreign key to the source, ON DELETE and ON UPDATE CASCADE, unless foreign_key is false. With create_table => false a table that has the first seven, with a unique key on doc_id and chunk_index. Raises 22023 and 42704';

create or replace function ai.extract(model text, input text, schema jsonb default null, prompt text default null, max_tokens int default null, budget numeric default null) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  raise exception 'ai.extract is not supported yet' using errcode = 'feature_not_supported',
    hint = 'A flow of your own can do it beside the pipeline: df.http and df.map, see docs/ai.md.';
end
$$;
comment on function ai.extract is 'The step of a pipeline that extracts data from text: not supported yet, raises 0A000';

create or replace function ai.generate(model text, input text, prompt text default null, max_tokens int default null, budget numeric default null) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  raise exception 'ai.generate is not supported yet' using errcode = 'feature_not_supported',
    hint = 'A flow of your own can do it beside the pipeline: df.http and df.map, see docs/ai.md.';
end
$$;
comment on function ai.generate is 'The step of a pipeline that generates text: not supported yet, raises 0A000';

create or replace function ai.rank(model text, input text default null, prompt text default null) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  raise exception 'ai.rank is not supported yet' using errcode = 'feature_not_supported',
    hint = 'A flow of your own can do it beside the pipeline: df.http and df.map, see docs/ai.md.';
end
$$;
comment on function ai.rank is 'The step of a pipeline that ranks results: not supported yet, raises 0A000';

create or replace function ai.sql(function_name text) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  raise exception 'ai.sql is not supported yet' using errcode = 'feature_not_supported',
    hint = 'A flow of your own can do it beside the pipeline: df.http and df.map, see docs/ai.md.';
end
$$;
comment on function ai.sql is 'The step of a pipeline that calls a function: not supported yet, raises 0A000';

create or replace function ai.approve(signal text default null) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  raise exception 'ai.approve is not supported yet' using errcode = 'feature_not_supported',
    hint = 'A flow of your own can do it beside the pipeline: df.http and df.map, see docs/ai.md.';
end
$$;
comment on function ai.approve is 'The step of a pipeline that waits for an approval: not supported yet, raises 0A000';

-- Pipelines: ai.create_pipeline checks what the builders said against the database, and makes a plan, the tables, the triggers and the run.

-- The caller's pipeline of that name; raises when there is none.
create or replace function ai._pipeline(p_name text) returns ai._pipelines
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_pipeline ai._pipelines;
begin
  select p.* into v_pipeline from ai._pipelines p where p.owner = quote_ident(current_user)::regrole and p.name = p_name;
  if not found then
    raise exception 'there is no pipeline "%"', left(p_name, 100) using errcode = 'undefined_object',
      hint = coalesce('Pipelines of ' || current_user || ': ' || (
        select string_agg(p.name, ', ' order by p.name) from ai._pipelines p where p.owner = quote_ident(current_user)::regrole) || '.', 'Create one with ai.create_pipeline.');
  end if;
  return v_pipeline;
end
$$;

-- The generation of a pipeline that serves.
create or replace function ai._serving(p_pipeline bigint) returns ai._generations
language sql stable set search_path = pg_catalog, pg_temp as $$
  select g from ai._generations g where g.pipeline = p_pipeline and g.serving
$$;

-- What wakes the run of a generation, and the key under which there is one.
create or replace function ai._key(p_generation bigint) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$ select 'ai-pipeline:' || p_generation $$;

create or replace function ai._refuse(p_problem text, p_hint text default null) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  raise exception 'ai.create_pipeline: %', p_problem using errcode = 'invalid_parameter_value', hint = coalesce(p_hint, '');
end
$$;

-- The step of that kind; raises when there are several.
create or replace function ai._step(p_steps jsonb, p_kind text) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if (select count(*) from jsonb_array_elements(p_steps) s where s ->> 'kind' = p_kind) > 1 then
    perform ai._refuse(format('there is more than one step ai.%s', p_kind));
  end if;
  return (select s from jsonb_array_elements(p_steps) s where s ->> 'kind' = p_kind);
end
$$;

-- The primary key of a table: name and type of each column, in the order of the key.
create or replace function ai._key_columns(p_table regclass) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$
  select jsonb_agg(jsonb_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
           'doc', case when cardinality(i.indkey::int2[]) = 1 then 'doc_id' else 'doc_' || a.attname end) order by k.place)
  from pg_index i, unnest(i.indkey::int2[]) with ordinality k(attnum, place)
  join pg_attribute a on a.attrelid = p_table and a.attnum = k.attnum
  where i.indrelid = p_table and i.indisprimary
$$;

-- A template as an SQL expression: {chunk} is p_chunk, any other {name} a column of the row s.
create or replace function ai._template_expression(p_template text, p_chunk text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select string_agg(case when t.part[2] is null then quote_literal(t.part[1]) when t.part[2] = 'chunk' then p_chunk
                         else format('coalesce(s.%I::text, '''')', t.part[2]) end, ' || ' order by t.place)
  from regexp_matches(p_template, '([^{]+|[{](?![A-Za-z_][A-Za-z0-9_]*[}]))|[{]([A-Za-z_][A-Za-z0-9_]*)[}]', 'g') with ordinality t(part, place)
$$;

-- All that the functions of the work need to know, worked out once.
create or replace function ai._plan(p_definition jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_source constant jsonb := p_definition -> 'source';
  v_table constant regclass := to_regclass(v_source ->> 'table');
  v_chunk constant jsonb := ai._step(p_definition -> 'steps', 'chunk');
  v_embed constant jsonb := ai._step(p_definition -> 'steps', 'embed');
  v_columns constant text[] := array(select a.attname from pg_attribute a where a.attrelid = v_table and a.attnum > 0 and not a.attisdropped
                                     order by a.attnum);
  v_key constant jsonb := ai._key_columns(v_table);
  v_input text;
  v_text text[];
  v_metadata text[];
  v_unknown text;
  v_model ai.models;
begin
  if v_embed is null then
    perform ai._refuse('its steps have no ai.embed');
  elsif v_key is null then
    perform ai._refuse(format('table %s has no primary key', v_table), 'Rows are told apart by it: ALTER TABLE ... ADD PRIMARY KEY.');
  elsif v_chunk is not null and v_embed ->> 'input' <> 'chunk_text' then
    perform ai._refuse('ai.embed embeds the chunks: its input must be chunk_text');
  end if;
  v_model := ai._model(v_embed ->> 'model');
  if (v_embed ->> 'dimensions')::int <> v_model.dimensions then
    perform ai._refuse(format('model "%s" has %s dimensions, and ai.embed says %s', v_model.name, v_model.dimensions, v_embed ->> 'dimensions'));
  end if;
  v_input := coalesce(v_chunk ->> 'input', v_embed ->> 'input');
  v_text := v_input || array(select m.name[1] from regexp_matches(coalesce(v_chunk ->> 'template', ''), '[{]([A-Za-z_][A-Za-z0-9_]*)[}]', 'g') m(name)
                             where m.name[1] <> 'chunk');
  v_metadata := coalesce(array(select jsonb_array_elements_text(v_source -> 'columns')), '{}');
  if not v_source ? 'columns' then
    v_metadata := array(select c from unnest(v_columns) with ordinality u(c, place)
                        where c <> v_input and c is distinct from v_source ->> 'incremental_column'
                          and not exists (select from jsonb_array_elements(v_key) k where k ->> 'name' = c) order by place);
  end if;
  select c into v_unknown from unnest(v_text || v_metadata || array_remove(array[v_source ->> 'incremental_column'], null)) c
  where c <> all (v_columns) limit 1;
  if found then
    perform ai._refuse(format('table %s has no column "%s"', v_table, v_unknown), 'Columns: ' || array_to_string(v_columns, ', ') || '.');
  end if;
  return jsonb_strip_nulls(jsonb_build_object(
    'key', v_key, 'input', v_input, 'filter', v_source -> 'filter', 'incremental_column', v_source -> 'incremental_column',
    'metadata', to_jsonb(v_metadata),
    'compared', to_jsonb(case when v_source ? 'filter' and not v_source ? 'columns' then v_columns
                              else array(select distinct c from unnest(v_text || v_metadata) c order by c) end),
    'text', ai._template_expression(coalesce(v_chunk ->> 'template', '{chunk}'), 'c.chunk_text'),
    'method', coalesce(v_chunk ->> 'method', 'none'), 'size', coalesce((v_chunk ->> 'chunk_size')::int, 512),
    'overlap', coalesce((v_chunk ->> 'overlap')::int, 0), 'unit', coalesce(v_chunk ->> 'unit', 'characters'),
    'model', v_model.name, 'model_id', v_model.model, 'dimensions', v_model.dimensions, 'vector_type', v_embed ->> 'vector_type',
    'batch_size', coalesce((v_embed ->> 'batch_size')::int, v_model.batch_size),
    'enable_always', v_source -> 'enable_always', 'text_search', p_definition #> '{sink,text_search}',
    'foreign_key', p_definition #> '{sink,foreign_key}', 'definition', p_definition));
end
$$;

-- A list of the key's columns, made with a format of name (1), type (2) and name in the sink (3).
create or replace function ai._of_key(p_plan jsonb, p_format text, p_between text default ', ') returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select string_agg(replace(replace(replace(p_format, '%1', quote_ident(k.value ->> 'name')), '%2', k.value ->> 'type'),
                            '%3', quote_ident(k.value ->> 'doc')), p_between order by k.place)
  from jsonb_array_elements(p_plan -> 'key') with ordinality k(value, place)
$$;

-- Makes a generation of a pipeline, and starts its run.
create or replace function ai._make_generation(p_pipeline ai._pipelines, p_definition jsonb, p_serving boolean) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_plan constant jsonb := ai._plan(p_definition);
  v_source constant regclass := (p_definition #>> '{source,table}')::regclass;
  v_number constant int := coalesce((select max(g.number) from ai._generations g where g.pipeline = p_pipeline.id), 0) + 1;
  v_sink text;
  v_queue text;
  v_id bigint;
begin
  v_sink := ai._sink_name(v_source, p_definition #>> '{sink,table}', case when not p_serving then v_number end);
  if (p_definition #>> '{sink,create_table}')::boolean then
    perform ai._create_sink(v_sink, v_source, v_plan);
  else
    perform ai._check_sink(v_sink, v_plan);
  end if;
  v_id := nextval(pg_get_serial_sequence('ai._generations', 'id'));
  v_queue := ai._beside(v_sink, 'queue', v_id);
  execute format('create table %s (seq bigint generated always as identity primary key, noted_at timestamptz not null default now(), %s)',
                 v_queue, ai._of_key(v_plan, '%1 %2 not null'));
  execute format('comment on table %s is %L', v_queue, format('Rows of %s that pipeline %s has not seen yet', v_source, p_pipeline.name));
  insert into ai._generations (id, pipeline, number, serving, plan, model, source, sink, queue, indexed)
  overriding system value
  values (v_id, p_pipeline.id, v_number, p_serving, v_plan, v_plan ->> 'model', v_source, v_sink::regclass, v_queue::regclass, false);
  if p_definition ->> 'trigger' = 'on_change' then
    perform ai._create_triggers(v_id);
  end if;
  perform ai._request_scan(v_id, null);
  perform ai._start(v_id);
  return v_id;
end
$$;

create or replace function ai.create_pipeline(
  name text, source jsonb, steps jsonb[], trigger text default 'on_change', sink jsonb default null, error_handling text default 'skip'
) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  v_pipeline ai._pipelines;
  v_definition jsonb;
  v_generation bigint;
begin
  if name is null or octet_length(name) not between 1 and 200 or name ~ '[${}]' then
    perform ai._refuse('name must have 1 to 200 bytes, and no $, { or }');
  elsif source ->> 'kind' is distinct from 'table' then
    perform ai._refuse('source must be what ai.table_source returns');
  elsif steps is null or exists (select from unnest(steps) s where s ->> 'kind' is null or s ->> 'kind' not in ('chunk', 'embed')) then
    perform ai._refuse('steps must be an array of what ai.chunk and ai.embed return');
  elsif error_handling is null or error_handling not in ('skip', 'fail', 'pause') then
    perform ai._refuse('error_handling must be skip, fail or pause');
  elsif trigger is null or trigger not in ('on_change', 'manual') and trigger !~ '^\s*\S+\s+\S+\s+\S+\s+\S+\s+\S+\s*$' then
    perform ai._refuse(format('trigger must be on_change, manual or a cron expression of five fields, and is %s', coalesce(trigger, 'NULL')));
  elsif exists (select from ai._pipelines p where p.owner = quote_ident(current_user)::regrole and p.name = name) then
    raise exception 'there is a pipeline "%" already', name using errcode = 'duplicate_object',
      hint = 'ai.alter_pipeline changes it, ai.drop_pipeline drops it.';
  end if;
  v_definition := jsonb_build_object('source', source, 'steps', to_jsonb(steps), 'trigger', trigger,
    'sink', coalesce(sink, ai.table_sink(quote_ident(name || '_chunks'))));
  insert into ai._pipelines as p (name, definition, error_handling) values (name, v_definition, error_handling) returning p.* into v_pipeline;
  v_generation := ai._make_generation(v_pipeline, v_definition, true);
  if trigger not in ('on_change', 'manual') then
    perform df.schedule('ai-pipeline:' || name, trigger, format('SELECT ai._scheduled(%s)', v_pipeline.id));
  end if;
  return (select g.instance from ai._generations g where g.id = v_generation);
end
$$;
comment on function ai.create_pipeline(text, jsonb, jsonb[], text, jsonb, text) is
  'Creates a pipeline of the current user, which embeds the rows of a source into a sink and keeps the sink as the source is, and returns the id of the run that does it, as its owner. source: ai.table_source. steps: an array of ai.chunk and ai.embed. trigger: on_change (triggers on the source wake it), manual (ai.run) or a cron expression, in the setting timezone. sink: ai.table_sink, by default a table named after the pipeline, with _chunks. error_handling: what a text that the model refuses does: skip (ai.failures, the rest goes on), fail, pause. Raises 22023, 42704 for a model that is not set, 42710 when there is one of that name, and what making tables, triggers and runs raises';

-- Sinks: the table that a generation fills, the indexes it gets once it is full, and the triggers that say what has changed.

-- The schema of pgvector, as it is written before its types and operators.
create or replace function ai._vector_schema() returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select e.extnamespace::regnamespace::text from pg_extension e where e.extname = 'vector'
$$;

-- The name of a sink with its schema, which is that of the source unless it says another; of a generation that does not serve with its number.
create or replace function ai._sink_name(p_source regclass, p_table text, p_number int) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('%I.%I', case when cardinality(s.parts) = 2 then s.parts[1]
                              else (select n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = p_source) end,
                left(s.parts[cardinality(s.parts)], 50) || coalesce('_g' || p_number, ''))
  from (select parse_ident(p_table) as parts) s
$$;

-- The name of something that belongs to a sink, in its schema.
create or replace function ai._beside(p_sink text, p_what text, p_generation bigint) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('%I.%I', s.parts[1], left(s.parts[2], 30) || '_' || p_what || '_' || p_generation) from (select parse_ident(p_sink) as parts) s
$$;

create or replace function ai._create_sink(p_sink text, p_source regclass, p_plan jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if to_regclass(p_sink) is not null then
    raise exception 'there is a table % already', p_sink using errcode = 'duplicate_table',
      hint = 'ai.table_sink(..., create_table => false) uses a table that is there.';
  end if;
  execute format(
    'create table %s (%s, chunk_index int not null, chunk_text text not null, embedding %s.%I(%s), metadata jsonb not null default ''{}'', '
    'model text not null, content_hash text not null, '
    'chunk_tsv tsvector generated always as (to_tsvector(%L::regconfig, chunk_text)) stored, primary key (%s, chunk_index)%s)',
    p_sink, ai._of_key(p_plan, '%3 %2 not null'), ai._vector_schema(), p_plan ->> 'vector_type', p_plan ->> 'dimensions',
    p_plan ->> 'text_search', ai._of_key(p_plan, '%3'),
    case when (p_plan ->> 'foreign_key')::boolean and has_table_privilege(p_source, 'references')
      then format(', foreign key (%s) references %s (%s) on delete cascade on update cascade', ai._of_key(p_plan, '%3'), p_source,
                  ai._of_key(p_plan, '%1')) else '' end);
  execute format('create index on %s (content_hash)', p_sink);  -- for embeddings that are there already, and those that arrive
  execute format('create index on %s (content_hash) where embedding is null', p_sink);  -- for what is to be embedded
  execute format('comment on table %s is %L', p_sink, format('Chunks of %s', p_source));
end
$$;

-- Raises unless a table has what a sink must have.
create or replace function ai._check_sink(p_sink text, p_plan jsonb) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_missing text;
  v_type constant text := ai._embedding_type(to_regclass(p_sink));
  v_wanted constant text := format('%s.%s(%s)', ai._vector_schema(), p_plan ->> 'vector_type', p_plan ->> 'dimensions');
begin
  if to_regclass(p_sink) is null then
    raise exception 'there is no table %', p_sink using errcode = 'undefined_table', hint = 'ai.table_sink(...) without create_table => false makes it.';
  end if;
  select string_agg(c, ', ') into v_missing
  from (select k ->> 'doc' from jsonb_array_elements(p_plan -> 'key') k
        union all values ('chunk_index'), ('chunk_text'), ('embedding'), ('metadata'), ('model'), ('content_hash')) w(c)
  where not exists (select from pg_attribute a where a.attrelid = p_sink::regclass and a.attname = w.c and not a.attisdropped);
  if v_missing is not null then
    perform ai._refuse(format('table %s has no column %s', p_sink, v_missing));
  elsif v_type not in (v_wanted, format('%s.%s', ai._vector_schema(), p_plan ->> 'vector_type')) then
    perform ai._refuse(format('column embedding of table %s is of type %s, and the model needs %s', p_sink, v_type, v_wanted));
  elsif not exists (
    select from pg_index i where i.indrelid = p_sink::regclass and i.indisunique and i.indpred is null and i.indexprs is null
      and (select array_agg(a.attname::text order by a.attname::text) from pg_attribute a
           where a.attrelid = i.indrelid and a.attnum = any (i.indkey::int2[]))
        = (select array_agg(w.c order by w.c) from (select k ->> 'doc' from jsonb_array_elements(p_plan -> 'key') k
                                                     union all select 'chunk_index') w(c))) then
    perform ai._refuse(format('table %s has no unique key on %s, chunk_index', p_sink, ai._of_key(p_plan, '%3')));
  end if;
end
$$;

-- The type of a sink's embeddings, with the schema of pgvector.
create or replace function ai._embedding_type(p_sink regclass) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format_type(a.atttypid, a.atttypmod) from pg_attribute a where a.attrelid = p_sink and a.attname = 'embedding' and not a.attisdropped
$$;

-- The function of the triggers, which acts as the owner of the pipeline and notes the keys of the rows that have changed: of a load with one
-- statement and one wake-up. What has not changed in the compared columns, byte for byte, is no change.
create or replace function ai._create_triggers(p_generation bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  g constant ai._generations := (select x from ai._generations x where x.id = p_generation);
  v_function constant text := ai._beside(g.sink::text, 'changed', g.id);
  t record;
begin
  execute format($create$
create function %1$s() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $body$
begin
  if tg_op = 'TRUNCATE' then
    delete from %2$s;
    delete from %3$s;
  elsif tg_op = 'INSERT' then
    insert into %3$s (%4$s) select %5$s from new_rows n;
  elsif tg_op = 'DELETE' then
    insert into %3$s (%4$s) select %6$s from old_rows o;
  else
    insert into %3$s (%4$s)
    select %5$s from new_rows n left join old_rows o on %7$s
    where not coalesce(%7$s, false) or %8$s::record operator(pg_catalog.*<>) %9$s::record
    union all
    select %6$s from old_rows o where not exists (select from new_rows n where %7$s);
  end if;
  if found and has_schema_privilege('df', 'usage') then
    perform df.poke(%10$L);
  end if;
  return null;
end
$body$ $create$,
    v_function, g.sink, g.queue, ai._of_key(g.plan, '%1'), ai._of_key(g.plan, 'n.%1'), ai._of_key(g.plan, 'o.%1'),
    ai._of_key(g.plan, 'n.%1 = o.%1', ' and '),
    (select 'row(' || string_agg(format('n.%I', c), ', ') || ')' from jsonb_array_elements_text(g.plan -> 'compared') c),
    (select 'row(' || string_agg(format('o.%I', c), ', ') || ')' from jsonb_array_elements_text(g.plan -> 'compared') c),
    ai._key(g.id));
  execute format('revoke all on function %s() from public', v_function);
  for t in select * from (values ('insert', 'referencing new table as new_rows'), ('update', 'referencing old table as old_rows new table as new_rows'),
                                 ('delete', 'referencing old table as old_rows'), ('truncate', '')) v(event, referencing) loop
    execute format('create trigger %I after %s on %s %s for each statement execute function %s()',
                   format('ai_%s_%s', g.id, t.event), t.event, g.source, t.referencing, v_function);
    if (g.plan ->> 'enable_always')::boolean then
      execute format('alter table %s enable always trigger %I', g.source, format('ai_%s_%s', g.id, t.event));
    end if;
  end loop;
end
$$;

create or replace function ai._drop_triggers(g ai._generations) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  t record;
begin
  for t in select x.tgname, x.tgfoid::regprocedure as function from pg_trigger x
           where x.tgrelid = g.source and x.tgname = any (array(select format('ai_%s_%s', g.id, e) from unnest('{insert,update,delete,truncate}'::text[]) e))
  loop
    execute format('drop trigger %I on %s', t.tgname, g.source);
    if not exists (select from pg_trigger x where x.tgfoid = t.function) then
      execute format('drop function %s', t.function);
    end if;
  end loop;
end
$$;

-- The statements that index a full sink, each a step of its own: CONCURRENTLY is in no transaction.
create or replace function ai._index_statements(g ai._generations) returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array_remove(array[
    case when (g.plan ->> 'dimensions')::int <= case g.plan ->> 'vector_type' when 'halfvec' then 4000 else 2000 end
      then format('CREATE INDEX CONCURRENTLY IF NOT EXISTS %I ON %s USING %s (embedding %s.%I)',
                  (parse_ident(ai._beside(g.sink::text, 'embedding', g.id)))[2], g.sink, 'hnsw', ai._vector_schema(),
                  g.plan ->> 'vector_type' || '_cosine_ops') end,
    case when exists (select from pg_attribute a where a.attrelid = g.sink and a.attname = 'chunk_tsv' and not a.attisdropped)
      then format('CREATE INDEX CONCURRENTLY IF NOT EXISTS %I ON %s USING gin (chunk_tsv)',
                  (parse_ident(ai._beside(g.sink::text, 'text', g.id)))[2], g.sink) end], null)
$$;

-- Drops indexes that a CREATE INDEX CONCURRENTLY has left unfinished.
create or replace function ai._drop_invalid_indexes(p_generation bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_index regclass;
begin
  for v_index in select i.indexrelid from pg_index i where not i.indisvalid
                 and i.indrelid = (select g.sink from ai._generations g where g.id = p_generation) loop
    execute format('drop index %s', v_index);
  end loop;
end
$$;

-- The flow of a generation, which ai.explain shows. It waits until there is work, then takes changed rows, makes chunks, and sends batches
-- of those that have no embedding within the limit of the model; what has not been stored is pending, and comes into a later batch. So
-- every step may be repeated, and nothing is kept in the run. Beside it, indexes are built once all is embedded for the first time: that may wait for
-- every transaction in the database, and nothing else waits for it. The next generation of a pipeline is promoted after that.

-- The request of a model with that body.
create or replace function ai._http(m ai.models, p_body text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select df.retry(df.http(m.url, 'POST', p_body, headers => jsonb_strip_nulls(jsonb_build_object(
      'Content-Type', 'application/json', 'Authorization', case when m.secret is not null then 'Bearer ' || df.secret(m.secret) end)),
    timeout_seconds => m.timeout_seconds), max_attempts => 5, initial_delay => '500 ms')
$$;

create or replace function ai._flow(p_generation bigint) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  g constant ai._generations := (select x from ai._generations x where x.id = p_generation);
  v_name constant text := (select p.name from ai._pipelines p where p.id = g.pipeline);
  m constant ai.models := ai._model(g.model);
  v_request text;
  v_batch text;
  v_iteration text;
  v_trouble text;
  v_promotion text[] := '{}';
begin
  v_request := df.within(ai._limit_name(m.name), ai._http(m, '$b.body'), v_name);
  v_batch := df.seq(df.as(df.catch(v_request, 'SELECT $error.status? AS status, $error.message AS body'), 'r'),
                    format('SELECT ai._store(%s, $b.hashes, $r.status?, $r.body)', g.id));
  if m.tpm is not null then
    v_batch := df.seq(df.sleep('$b.pause'), v_batch);
  end if;
  v_batch := df.seq(df.as(format('SELECT * FROM ai._request(%s, $item.hashes)', g.id), 'b'), df.if('SELECT $b.n > 0', v_batch, 'SELECT 0'));
  v_iteration := df.chain(
    format('SELECT ai._take_changes(%s)', g.id),
    df.map(format('SELECT * FROM ai._batches(%s)', g.id), v_batch, parallel => m.concurrency, collect_values => false),
    format('SELECT ai._check(%s)', g.id));
  v_trouble := df.seq(df.as(format('SELECT ai._trouble(%s, $error.message) AS pause', g.id), 't'), df.sleep('$t.pause'));
  if not g.serving then
    v_promotion := array[df.wait_for(format('SELECT ai._is_full(%s)', g.id), every => '1 minute', key => ai._idle_key(g.id)),
                         format('SELECT ai._promote(%s)', g.id)];
  end if;
  return df.race(
    df.loop(df.seq(
      df.wait_for(format('SELECT ai._has_work(%s)', g.id), every => '1 minute', key => ai._key(g.id)),
      df.catch(
        df.seq(df.loop(v_iteration, format('SELECT ai._has_work(%s)', g.id)), format('SELECT ai._idle(%s)', g.id)),
        v_trouble, errors => '{AI001,transient,40,55P03,23503}'))),
    df.chain(
      df.wait_for(format('SELECT ai._is_full(%s)', g.id), every => '1 minute', key => ai._idle_key(g.id)),
      df.loop(
        df.catch(df.chain(variadic format('SELECT ai._drop_invalid_indexes(%s)', g.id) || ai._index_statements(g)
                          || format('SELECT ai._indexed(%s)', g.id) || v_promotion), v_trouble),
        format('SELECT NOT ai._is_ready(%s)', g.id)),
      df.sleep('36500 days')));  -- the other branch never ends but by a failure, which ends the run
end
$$;

-- Starts the run of a generation, in place of the one that there may be.
create or replace function ai._start(p_generation bigint) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_name constant text := (select p.name from ai._generations g join ai._pipelines p on p.id = g.pipeline where g.id = p_generation);
  v_instance constant text := df.start(ai._flow(p_generation), 'ai-pipeline:' || v_name, key => ai._key(p_generation), on_conflict => 'replace');
begin
  update ai._generations g set instance = v_instance where g.id = p_generation;
  return v_instance;
end
$$;

-- Changes: rows of the source that are to be seen again come into the queue, by triggers or by a scan, and become chunks in the sink. A chunk whose
-- text is known gets its embedding; one that is new has none, and so is pending.

-- Makes all rows that meet a condition come into the queue, a part at a time. NULL: all rows, and what is in the sink without a row.
create or replace function ai._request_scan(p_generation bigint, p_condition text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  g constant ai._generations := (select x from ai._generations x where x.id = p_generation);
  v_column constant text := g.plan ->> 'incremental_column';
  v_watermark text;
begin
  if v_column is not null then
    execute format('select max(%I)::text from %s', v_column, g.source) into v_watermark;
  end if;
  update ai._generations x
  set scanning = true, scan_condition = p_condition, scan_after = null, scanned = 0, watermark = v_watermark,
      scan_total = (select greatest(c.reltuples, 0)::bigint from pg_class c where c.oid = g.source)
  where x.id = p_generation;
  perform df.poke(ai._key(p_generation));
end
$$;

-- What a run that no trigger has told of must see: rows whose incremental_column has grown; an hour is for transactions that commit late.
create or replace function ai._since_watermark(g ai._generations) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format(case when a.atttypid in ('timestamptz'::regtype, 'timestamp'::regtype)
                     then '%I >= %L::%s - interval ''1 hour''' else '%I >= %L::%s' end, a.attname, g.watermark, format_type(a.atttypid, null))
  from pg_attribute a
  where a.attrelid = g.source and a.attname = g.plan ->> 'incremental_column' and g.watermark is not null
$$;

-- Queues the next part of a scan; after the last one what the sink has of rows that are gone.
create or replace function ai._scan(g ai._generations, p_limit int) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_count int;
  v_last jsonb;
begin
  execute format(
    'with page as (select %1$s from %2$s s where (%3$s)%4$s order by %1$s limit %5$s),
          queued as (insert into %6$s (%7$s) select %8$s from page returning 1)
     select (select count(*) from queued), (select to_jsonb(p) from page p order by %9$s limit 1)',
    ai._of_key(g.plan, 's.%1'), g.source, coalesce(g.scan_condition, 'true'),
    case when g.scan_after is null then '' else format(' and (%s) > (%s)', ai._of_key(g.plan, 's.%1'), (
      select string_agg(format('%L::%s', g.scan_after ->> (k ->> 'name'), k ->> 'type'), ', ' order by o)
      from jsonb_array_elements(g.plan -> 'key') with ordinality e(k, o))) end,
    p_limit, g.queue, ai._of_key(g.plan, '%1'), ai._of_key(g.plan, 'page.%1'), ai._of_key(g.plan, 'p.%1 desc'))
    into v_count, v_last;
  if v_count < p_limit then
    execute format('insert into %s (%s) select distinct %s from %s x where not exists (select from %s s where %s)',
                   g.queue, ai._of_key(g.plan, '%1'), ai._of_key(g.plan, 'x.%3'), g.sink, g.source, ai._of_key(g.plan, 's.%1 = x.%3', ' and '));
  end if;
  update ai._generations x
  set scanning = v_count = p_limit, scan_after = coalesce(v_last, x.scan_after), scanned = x.scanned + v_count
  where x.id = g.id;
  perform df.progress(g.scanned + v_count, greatest(g.scan_total, g.scanned + v_count), 'rows scanned');
end
$$;

-- Takes rows out of the queue, the oldest first, at most p_limit and 8 MB of text, and answers their keys.
create or replace function ai._take(g ai._generations, p_limit int) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_keys jsonb;
begin
  execute format(
    'with oldest as (select * from %1$s order by seq limit %2$s for update skip locked),
          sized as (select o.seq, coalesce(sum(octet_length(s.%3$I::text)) over (order by o.seq rows unbounded preceding), 0)
                                  - coalesce(octet_length(s.%3$I::text), 0) as before
                    from oldest o left join %4$s s on %5$s),
          taken as (delete from %1$s q using sized z where q.seq = z.seq and z.before < 8000000 returning %6$s)
     select jsonb_agg(distinct to_jsonb(t)) from taken t',
    g.queue, p_limit, g.plan ->> 'input', g.source, ai._of_key(g.plan, 's.%1 = o.%1', ' and '), ai._of_key(g.plan, 'q.%1')) into v_keys;
  return v_keys;
end
$$;

-- Makes the chunks of rows what their texts say; answers how many are new or changed.
create or replace function ai._chunk_rows(g ai._generations, p_keys jsonb) returns int
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_count int;
begin
  execute format(
    'with k as materialized (select * from jsonb_to_recordset($1) as k(%1$s)),
          piece as (
            select %2$s, c.chunk_index, %3$s as chunk_text,
                   %4$s || case when c.headings is null then ''{}'' else jsonb_build_object(''headings'', c.headings) end as metadata
            from k join %5$s s on %6$s
            cross join lateral ai.chunk_text(s.%7$I::text, $2 ->> ''method'', ($2 ->> ''size'')::int, ($2 ->> ''overlap'')::int, $2 ->> ''unit'') c
            where (%8$s)),
          hashed as materialized (select p.*, ai._hash(p.chunk_text) as content_hash from piece p),
          gone as (delete from %9$s x using k where %10$s
                     and not exists (select from hashed h where %11$s and h.chunk_index = x.chunk_index))
     insert into %9$s as x (%12$s, chunk_index, chunk_text, embedding, metadata, model, content_hash)
     select %13$s, h.chunk_index, h.chunk_text,
            %14$s,
            h.metadata, $2 ->> ''model_id'', h.content_hash
     from hashed h
     on conflict (%12$s, chunk_index) do update
       set chunk_text = excluded.chunk_text, embedding = excluded.embedding, metadata = excluded.metadata, model = excluded.model,
           content_hash = excluded.content_hash
       where (x.content_hash, x.metadata) is distinct from (excluded.content_hash, excluded.metadata)',
    ai._of_key(g.plan, '%1 %2'), ai._of_key(g.plan, 's.%1 as %3'), g.plan ->> 'text',
    coalesce((select 'jsonb_build_object(' || string_agg(format('%L, s.%I', c, c), ', ') || ')'
              from jsonb_array_elements_text(g.plan -> 'metadata') c), '''{}''::jsonb'),
    g.source, ai._of_key(g.plan, 's.%1 = k.%1', ' and '), g.plan ->> 'input', coalesce(g.plan ->> 'filter', 'true'),
    g.sink, ai._of_key(g.plan, 'x.%3 = k.%1', ' and '), ai._of_key(g.plan, 'h.%3 = x.%3', ' and '),
    ai._of_key(g.plan, '%3'), ai._of_key(g.plan, 'h.%3'), (
      select 'coalesce(' || string_agg(format('(select e.embedding from %s e where e.content_hash = h.content_hash and e.embedding is not null limit 1)',
                                              o.sink), ', ' order by o.id = g.id desc) || ')'
      from ai._generations o
      where o.pipeline = g.pipeline and o.model = g.model and ai._embedding_type(o.sink) = ai._embedding_type(g.sink)))
    using p_keys, g.plan;
  get diagnostics v_count = row_count;
  return v_count;
end
$$;

-- What identifies a text that is sent.
create or replace function ai._hash(p_text text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$ select encode(sha256(convert_to(p_text, 'UTF8')), 'hex') $$;

-- The first step of an iteration: some rows of the queue become chunks.
create or replace function ai._take_changes(p_generation bigint) returns int
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  g ai._generations;
  v_keys jsonb;
begin
  select x.* into g from ai._generations x where x.id = p_generation;
  if (select p.paused from ai._pipelines p where p.id = g.pipeline) then
    return 0;
  end if;
  if g.scanning then
    perform ai._scan(g, 1000);
  end if;
  v_keys := ai._take(g, 1000);
  return case when v_keys is null then 0 else ai._chunk_rows(g, v_keys) end;
end
$$;

-- Batches: what is pending in a sink is sent to the model, and what comes back is stored. A text is known by its hash, so two chunks with the same
-- text are one text. What is refused is sent again in halves until the bad text is alone.

-- Whether a sink has texts that are to be sent.
create or replace function ai._has_pending(g ai._generations) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_answer boolean;
begin
  execute format('select exists (select from %s x where x.embedding is null and not exists (
    select from ai._refusals r where r.generation = $1 and r.content_hash = x.content_hash and r.lot is null))', g.sink) into v_answer using g.id;
  return v_answer;
end
$$;

-- The next batches: those that were refused before in their lots, the others as large as they may be.
create or replace function ai._batches(p_generation bigint, out hashes text[]) returns setof text[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  g constant ai._generations := (select x from ai._generations x where x.id = p_generation);
  v_size constant int := (g.plan ->> 'batch_size')::int;
  v_batches constant int := least(64, 4 * (ai._model(g.model)).concurrency);
begin
  if ai._why_not(g) is not null then
    return;
  end if;
  delete from ai._refusals r where r.generation = g.id and not ai._is_pending(g, r.content_hash);
  return query execute format(
    'select array_agg(b.content_hash order by b.content_hash)
     from (select n.content_hash, (row_number() over (order by n.content_hash) - 1) / $2 as batch
           from (select distinct x.content_hash from %1$s x
                 where x.embedding is null and not exists (select from ai._refusals r where r.generation = $1 and r.content_hash = x.content_hash)
                 order by x.content_hash limit $2 * $3) n) b
     group by b.batch
     union all
     select array_agg(r.content_hash order by r.content_hash) from ai._refusals r where r.generation = $1 and r.lot is not null group by r.lot',
    g.sink) using g.id, v_size, v_batches;
end
$$;

-- Whether a text waits for its embedding.
create or replace function ai._is_pending(g ai._generations, p_hash text) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_answer boolean;
begin
  execute format('select exists (select from %s x where x.content_hash = $1 and x.embedding is null)', g.sink) into v_answer using p_hash;
  return v_answer;
end
$$;

-- The request for a batch: of its texts those that are pending still. pause: how long the model's tokens a minute make it wait.
create or replace function ai._request(p_generation bigint, p_hashes text[], out n int, out body text, out hashes text[], out pause text)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  g constant ai._generations := (select x from ai._generations x where x.id = p_generation);
  m constant ai.models := ai._model(g.model);
  v_texts text[];
begin
  n := 0;
  pause := '0';
  if ai._why_not(g) is not null then
    return;
  end if;
  execute format('select array_agg(t.content_hash order by t.content_hash), array_agg(t.chunk_text order by t.content_hash)
                  from (select distinct on (x.content_hash) x.content_hash, x.chunk_text from %s x
                        where x.content_hash = any ($1) and x.embedding is null order by x.content_hash) t', g.sink)
    into hashes, v_texts using p_hashes;
  n := coalesce(cardinality(hashes), 0);
  body := jsonb_build_object('model', m.model, 'input', v_texts);
  if n > 0 and m.tpm is not null then
    pause := ai._reserve_tokens(m.name, (select sum(ai.count_tokens(t)) from unnest(v_texts) t));
  end if;
end
$$;

-- Reserves the time that so many tokens take of a model, and answers how many seconds are left until it begins.
create or replace function ai._reserve_tokens(p_model text, p_tokens bigint) returns text
language sql set search_path = pg_catalog, pg_temp as $$
  update ai.models m
  set tokens_free_at = greatest(m.tokens_free_at, clock_timestamp() - interval '5 s') + p_tokens * interval '1 minute' / m.tpm
  where m.owner = quote_ident(current_user)::regrole and m.name = p_model
  returning round(greatest(0, extract(epoch from m.tokens_free_at - p_tokens * interval '1 minute' / m.tpm - clock_timestamp())), 3)::text
$$;

-- What the endpoint has answered, by position; raises where it is not what an answer must be.
create or replace function ai._embeddings(m ai.models, p_count int, p_body text) returns table (place int, embedding text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_data jsonb;
  v_dimensions int;
begin
  begin
    v_data := p_body::jsonb -> 'data';
  exception when data_exception then
    raise exception 'the answer of model "%" is no JSON: %', m.name, left(p_body, 200) using errcode = 'AI001';
  end;
  if jsonb_typeof(v_data) is distinct from 'array' or jsonb_array_length(v_data) <> p_count then
    raise exception 'model "%" was sent % texts, and its answer has % embeddings', m.name, p_count,
      case when jsonb_typeof(v_data) = 'array' then jsonb_array_length(v_data)::text else 'no' end using errcode = 'AI001';
  end if;
  select jsonb_array_length(d -> 'embedding') into v_dimensions from jsonb_array_elements(v_data) d
  where jsonb_array_length(d -> 'embedding') <> m.dimensions limit 1;
  if found then
    raise exception 'model "%" answers with % dimensions, and % are expected', m.name, v_dimensions, m.dimensions
      using errcode = 'AI002', hint = 'ai.set_model of another name with the dimensions that it has, then ai.alter_pipeline.';
  end if;
  return query select coalesce((d.value ->> 'index')::int + 1, d.place::int), d.value ->> 'embedding'
               from jsonb_array_elements(v_data) with ordinality d(value, place);
end
$$;

-- Stores what a request has brought. A status that says that the endpoint does not work raises AI001, and the flow tries again later.
create or replace function ai._store(p_generation bigint, p_hashes text[], p_status int, p_body text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  g constant ai._generations := (select x from ai._generations x where x.id = p_generation);
  m constant ai.models := ai._model(g.model);
  v_type constant text := ai._embedding_type(g.sink);
begin
  if p_status = 429 then  -- the limit of the model is paused; the texts stay pending
    return 'later';
  elsif p_status between 200 and 299 then
    execute format('update %s x set embedding = e.embedding::%s, model = $3 from unnest($1, $2) e(hash, embedding)
                    where x.content_hash = e.hash and x.embedding is null', g.sink, v_type)
      using p_hashes, (select array_agg(e.embedding order by e.place) from ai._embeddings(m, cardinality(p_hashes), p_body) e), m.model;
    delete from ai._refusals r where r.generation = g.id and r.content_hash = any (p_hashes);
    update ai._generations x set trouble = null, trouble_at = null, troubles = 0 where x.id = g.id and x.troubles > 0;
    perform ai._note_usage((select p.name from ai._pipelines p where p.id = g.pipeline), m, cardinality(p_hashes),
      (p_body::jsonb #>> '{usage,total_tokens}')::numeric::bigint);
    return 'stored';
  elsif p_status in (400, 413, 415, 422, 500) then
    perform ai._note_refusal(g, p_hashes, p_status, p_body);
    return 'refused';
  end if;
  raise exception 'model "%": %', m.name, coalesce('HTTP ' || p_status || ': ', '') || left(p_body, 500) using errcode = 'AI001';
end
$$;

-- A batch was refused: its halves are lots of their own, and a text that is alone is a failure.
create or replace function ai._note_refusal(g ai._generations, p_hashes text[], p_status int, p_error text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_half constant int := (cardinality(p_hashes) + 1) / 2;
  v_lots constant bigint := coalesce((select max(r.lot) from ai._refusals r where r.generation = g.id), 0);
  v_alone constant boolean := cardinality(p_hashes) = 1;
  v_doc text;
  v_text text;
begin
  if v_alone then
    execute format('select case when cardinality(k) = 1 then k[1] else to_jsonb(k)::text end, t from (
                      select array[%s] as k, x.chunk_text as t from %s x where x.content_hash = $1 order by 1 limit 1) f',
                   ai._of_key(g.plan, 'x.%3::text'), g.sink) into v_doc, v_text using p_hashes[1];
  end if;
  insert into ai._refusals as r (generation, content_hash, lot, error, status, doc_id, chunk_text)
  select g.id, h.hash, case when not v_alone then v_lots + 1 + (h.place > v_half)::int end,
         left(coalesce(p_error, 'HTTP ' || p_status), 2000), p_status, v_doc, v_text
  from unnest(p_hashes) with ordinality h(hash, place)
  on conflict (generation, content_hash) do update
    set lot = excluded.lot, error = excluded.error, status = excluded.status, failed_at = clock_timestamp(), doc_id = excluded.doc_id,
        chunk_text = excluded.chunk_text;
  if v_alone then
    update ai._pipelines p set paused = true, reason = 'a text was refused: ' || left(p_error, 200)
    where p.id = g.pipeline and p.error_handling = 'pause';
  end if;
end
$$;

-- After the batches of an iteration: raises if the pipeline is to fail with its first text that is refused.
create or replace function ai._check(p_generation bigint) returns int
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_refusal ai._refusals;
begin
  select r.* into v_refusal
  from ai._refusals r join ai._generations g on g.id = r.generation join ai._pipelines p on p.id = g.pipeline
  where r.generation = p_generation and r.lot is null and p.error_handling = 'fail' order by r.failed_at limit 1;
  if found then
    raise exception 'the text of row % was refused: %', v_refusal.doc_id, v_refusal.error using errcode = 'AI003',
      hint = 'ai.failures has all. ai.retry_failures sends them again, ai.resume goes on.';
  end if;
  return 0;
end
$$;

-- Running: what the run of a generation asks, and what its owner says to it.

-- Why a generation sends nothing now; NULL: it may.
create or replace function ai._why_not(g ai._generations) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(case when p.paused then 'paused' || coalesce(': ' || p.reason, '') end, ai._budget_spent(p.name, g.model))
  from ai._pipelines p where p.id = g.pipeline
$$;

-- Whether there is anything to chunk or to embed, and it may be done.
create or replace function ai._has_work(p_generation bigint) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  g constant ai._generations := (select x from ai._generations x where x.id = p_generation);
  v_queued boolean;
begin
  if ai._why_not(g) is not null then
    return false;
  end if;
  if g.scanning or ai._has_pending(g) then
    return true;
  end if;
  execute format('select exists (select from %s)', g.queue) into v_queued;
  return v_queued;
end
$$;

-- Whether all is embedded that can be: then indexes are built.
create or replace function ai._is_full(p_generation bigint) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select ai._why_not(g) is null and not ai._has_work(g.id) from ai._generations g where g.id = p_generation
$$;

-- Whether a generation serves, with its indexes.
create or replace function ai._is_ready(p_generation bigint) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$ select g.indexed and g.serving from ai._generations g where g.id = p_generation $$;

create or replace function ai._indexed(p_generation bigint) returns void
language sql set search_path = pg_catalog, pg_temp as $$ update ai._generations g set indexed = true where g.id = p_generation $$;

-- What ai.run waits for.
create or replace function ai._idle_key(p_generation bigint) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$ select 'ai-idle:' || p_generation $$;

-- All is done.
create or replace function ai._idle(p_generation bigint) returns void
language sql set search_path = pg_catalog, pg_temp as $$ select df.poke(ai._idle_key(p_generation)) $$;

-- Notes why an iteration has failed, and answers for how many seconds the run waits: twice as long each time, at most a minute.
create or replace function ai._trouble(p_generation bigint, p_error text) returns text
language sql set search_path = pg_catalog, pg_temp as $$
  update ai._generations g
  set trouble = left(p_error, 2000), trouble_at = clock_timestamp(), troubles = least(g.troubles + 1, 1000)
  where g.id = p_generation
  returning least(60, 2 ^ least(g.troubles, 7) / 2)::text
$$;

-- Of a schedule's tick.
create or replace function ai._scheduled(p_pipeline bigint) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  select ai._request_scan(g.id, ai._since_watermark(g)) from ai._generations g where g.pipeline = p_pipeline and not g.scanning
$$;

-- Starts the run of a generation again if it has ended.
create or replace function ai._revive(g ai._generations) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if not exists (select from df.instances i where i.id = g.instance and i.status in ('pending', 'running')) then
    perform ai._start(g.id);
  else
    perform df.poke(ai._key(g.id));
  end if;
end
$$;

-- A run that ends when a generation has nothing to do any more.
create or replace function ai._await(p_name text, p_generation bigint) returns text
language sql set search_path = pg_catalog, pg_temp as $$
  select df.start(df.seq(
      df.wait_for(format('SELECT NOT ai._has_work(%s)', p_generation), every => '5 s', key => ai._idle_key(p_generation)),
      format('SELECT * FROM ai.status(%s)', df.literal(p_name))), 'ai-run:' || p_name)
$$;

create or replace function ai.run(name text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_pipeline constant ai._pipelines := ai._pipeline(name);
  g constant ai._generations := ai._serving(v_pipeline.id);
begin
  if v_pipeline.definition ->> 'trigger' <> 'on_change' and not g.scanning then
    perform ai._request_scan(g.id, ai._since_watermark(g));
  end if;
  perform ai._revive(g);
  return ai._await(v_pipeline.name, g.id);
end
$$;
comment on function ai.run(text) is
  'Makes a pipeline of the current user work now, and returns the id of a run that ends when nothing is left to do, with the row of ai.status as its result: df.await_instance waits for it. Without triggers on the source it reads the rows whose incremental_column has grown, or all; a text that has not changed is not sent. Raises 42704';

create or replace function ai.backfill(name text, condition text default null) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_pipeline constant ai._pipelines := ai._pipeline(name);
  g constant ai._generations := ai._serving(v_pipeline.id);
begin
  if condition is not null then  -- tried now, so that a mistake is the caller's
    execute format('explain select from %s s where (%s)', g.source, condition);
  end if;
  perform ai._request_scan(g.id, condition);
  perform ai._revive(g);
  return ai._await(v_pipeline.name, g.id);
end
$$;
comment on function ai.backfill(text, text) is
  'Makes a pipeline of the current user go through the rows of its source again, those that meet a condition or all, in the order of the key, some at a time, and returns the id of a run that ends when nothing is left to do. It goes on where it was after a crash or a pause, and says how far it is (df.progress). Rows of the sink whose row is gone are removed; a text that has not changed is not sent. Raises 42704, and what the condition raises';

create or replace function ai.pause(name text, reason text default null) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_pipeline constant ai._pipelines := ai._pipeline(name);
begin
  update ai._pipelines p set paused = true, reason = pause.reason where p.id = v_pipeline.id;
  return 'OK';
end
$$;
comment on function ai.pause(text, text) is
  'Pauses a pipeline of the current user: it begins no request and makes no chunks, changes of the source are noted, requests under way end and are stored. Returns OK; raises 42704';

create or replace function ai.resume(name text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_pipeline constant ai._pipelines := ai._pipeline(name);
begin
  update ai._pipelines p set paused = false, reason = null where p.id = v_pipeline.id;
  perform ai._revive(g) from ai._generations g where g.pipeline = v_pipeline.id;
  return 'OK';
end
$$;
comment on function ai.resume(text) is
  'Lets a pipeline of the current user go on that was paused or has failed. Returns OK; raises 42704';

create or replace function ai.retry_failures(name text) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_pipeline constant ai._pipelines := ai._pipeline(name);
  v_count bigint;
begin
  delete from ai._refusals r where r.lot is null and r.generation in (select g.id from ai._generations g where g.pipeline = v_pipeline.id);
  get diagnostics v_count = row_count;
  perform ai._revive(g) from ai._generations g where g.pipeline = v_pipeline.id;
  return v_count;
end
$$;
comment on function ai.retry_failures(text) is
  'Sends the texts of a pipeline that were refused (ai.failures) again, and returns how many there are; a pipeline that has failed goes on. Raises 42704';

-- Removes a generation, with its run, its triggers and its queue.
create or replace function ai._drop_generation(g ai._generations, p_drop_sink boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- In the order in which all who read or write several of them come to them.
  execute format('lock table %s, %s, %s in access exclusive mode', g.source, g.sink, g.queue);
  if exists (select from df.instances i where i.id = g.instance and i.status in ('pending', 'running')) then
    perform df.cancel(g.instance, 'the pipeline, or this generation of it, is dropped');
  end if;
  perform ai._drop_triggers(g);
  execute format('drop table if exists %s', g.queue);
  if p_drop_sink then
    execute format('drop table if exists %s', g.sink);
  end if;
  delete from ai._generations x where x.id = g.id;
end
$$;

create or replace function ai.drop_pipeline(name text, drop_sink boolean default false) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_pipeline constant ai._pipelines := ai._pipeline(name);
  g ai._generations;
begin
  for g in select x.* from ai._generations x where x.pipeline = v_pipeline.id loop
    perform ai._drop_generation(g, drop_sink or not g.serving);
  end loop;
  if v_pipeline.definition ->> 'trigger' not in ('on_change', 'manual') then
    perform df.unschedule('ai-pipeline:' || v_pipeline.name);
  end if;
  delete from ai._budgets b where b.owner = quote_ident(current_user)::regrole and b.kind = 'pipeline' and b.name = v_pipeline.name;
  delete from ai._pipelines p where p.id = v_pipeline.id;
  return 'OK';
end
$$;
comment on function ai.drop_pipeline(text, boolean) is
  'Drops a pipeline of the current user: its run is cancelled, its triggers and its queue are dropped, its usage is kept. drop_sink: its sink, too. Returns OK; raises 42704';

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

-- Status: how far the pipelines are.

-- In one word.
create or replace function ai._state(g ai._generations, p_paused boolean, p_pipeline text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select case when p_paused then 'paused'
      when i.status is null or i.status not in ('pending', 'running') then coalesce(i.status, 'stopped')
      when ai._budget_spent(p_pipeline, g.model) is not null then 'over budget'
      when g.troubles > 0 then 'in trouble'
      when ai._has_work(g.id) then 'working' else 'idle' end
    from (select (select x.status from df.instances x where x.id = g.instance) as status) i);
exception when undefined_table or syntax_error then  -- its tables have been dropped since this statement began
  return 'replaced';
end
$$;

-- What counting tells about a generation.
create or replace function ai._counts(
  g ai._generations, out source_rows bigint, out chunks bigint, out embedded bigint, out queued bigint, out oldest_lag interval
)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  execute format('select (select count(*) from %s s where (%s)), c.n, c.e, q.n, clock_timestamp() - q.oldest
                  from (select count(*) as n, count(x.embedding) as e from %s x) c,
                       (select count(*) as n, min(y.noted_at) as oldest from %s y) q',
                 g.source, coalesce(g.plan ->> 'filter', 'true'), g.sink, g.queue)
    into source_rows, chunks, embedded, queued, oldest_lag;
exception when undefined_table or syntax_error then  -- as in ai._state
  chunks := 0;
  embedded := 0;
  queued := 0;
end
$$;

create or replace function ai.status(
  name text, out pipeline text, out generation int, out serving boolean, out state text, out reason text, out source_rows bigint, out chunks bigint,
  out embedded bigint, out coverage numeric, out backlog bigint, out oldest_lag interval, out failures bigint, out requests bigint, out texts bigint,
  out tokens bigint, out cost numeric, out tokens_per_second numeric, out eta interval, out scanned text, out instance_id text, out live_runs bigint
) returns setof record
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_pipeline constant ai._pipelines := ai._pipeline(name);
  g ai._generations;
  c record;
  u record;
begin
  pipeline := v_pipeline.name;
  for g in select x.* from ai._generations x where x.pipeline = v_pipeline.id order by x.number loop
    c := ai._counts(g);
    generation := g.number;
    serving := g.serving;
    state := ai._state(g, v_pipeline.paused, v_pipeline.name);
    reason := coalesce(case when v_pipeline.paused then v_pipeline.reason end, g.trouble, ai._budget_spent(v_pipeline.name, g.model),
                       case when state = 'failed' then (select i.error from df.instances i where i.id = g.instance) end);
    source_rows := c.source_rows;
    chunks := c.chunks;
    embedded := c.embedded;
    failures := (select count(*) from ai._refusals r where r.generation = g.id and r.lot is null);
    backlog := c.queued + c.chunks - c.embedded - failures;
    coverage := case when c.chunks = 0 then case when c.queued = 0 and not g.scanning then 100 else 0 end
                     else trunc(100.0 * c.embedded / c.chunks, 2) end;
    oldest_lag := c.oldest_lag;
    select coalesce(sum(x.requests), 0) as requests, coalesce(sum(x.texts), 0) as texts, coalesce(sum(x.tokens), 0) as tokens,
           coalesce(sum(x.cost), 0) as cost,
           sum(x.tokens) filter (where x.hour = h.now) / nullif(extract(epoch from clock_timestamp() - h.since), 0) as rate,
           sum(x.texts) filter (where x.hour = h.now) / nullif(extract(epoch from clock_timestamp() - h.since), 0) as texts_rate
      into u
    from (select date_trunc('hour', clock_timestamp(), 'UTC') as now,
                 greatest(date_trunc('hour', clock_timestamp(), 'UTC'), v_pipeline.created_at) as since) h
    left join ai._usage x on x.owner = quote_ident(current_user)::regrole and x.pipeline = v_pipeline.name and x.model = g.model
    group by h.now, h.since;
    requests := u.requests;
    texts := u.texts;
    tokens := u.tokens;
    cost := round(u.cost, 6);
    tokens_per_second := round(coalesce(u.rate, 0), 2);
    eta := case when backlog = 0 then interval '0' when u.texts_rate > 0 then make_interval(secs => round(backlog / u.texts_rate)::float8) end;
    scanned := case when g.scanning then format('%s of about %s rows', g.scanned, g.scan_total) end;
    instance_id := g.instance;
    live_runs := (select count(*) from df.instances i
                  where i.label in ('ai-pipeline:' || v_pipeline.name, 'ai-run:' || v_pipeline.name) and i.status in ('pending', 'running'));
    return next;
  end loop;
end
$$;
comment on function ai.status(text) is
  'How far a pipeline of the current user is, a row for the generation that serves, and one for the next if there is one: its state (idle, working, paused, in trouble, over budget, failed, replaced) and why, rows of the source, chunks, how many have their embedding, how much that is in percent, rows and texts that wait (backlog) and since when the oldest does, texts that were refused, requests, texts, tokens and cost so far, tokens a second in this hour, when the backlog will be done at its rate, how far a scan is, and the runs. It counts both tables. Raises 42704';

create or replace function ai.list_pipelines(
  out name text, out state text, out trigger text, out source text, out sink text, out model text, out generation int, out instance_id text,
  out created_at timestamptz
) returns setof record
language sql stable set search_path = pg_catalog, pg_temp as $$
  select p.name, ai._state(g, p.paused, p.name), p.definition ->> 'trigger', g.source::text, g.sink::text, g.model, g.number, g.instance, p.created_at
  from ai._pipelines p join ai._generations g on g.pipeline = p.id and g.serving
  where p.owner = quote_ident(current_user)::regrole
  order by p.name
$$;
comment on function ai.list_pipelines() is 'The pipelines of the current user: state, trigger, source, sink, model, generation and the run that does the work';

create or replace function ai.explain(name text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select df.explain((ai._serving((ai._pipeline(name)).id)).instance)
$$;
comment on function ai.explain(text) is
  'Draws the flow of a pipeline of the current user with the statuses of its steps, as df.explain does. Raises 42704';

-- Search: by vector, by full text, or by both, merged by reciprocal rank. A SELECT can make no request, so the embedding of a query comes with the call,
-- or was kept before (ai.embed_query); without one full text alone is searched, and the rows say so. Full text alone finds any of the words; beside
-- vectors all of them must be there: rows with some word of a question would come before those that mean what it asks.

-- The generation that serves, with its sink locked against being replaced: so what is read next is one generation, whole.
create or replace function ai._lock_serving(p_name text) returns ai._generations
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_pipeline constant ai._pipelines := ai._pipeline(p_name);
begin
  execute format('lock table %s in access share mode', (ai._serving(v_pipeline.id)).sink);
  return ai._serving(v_pipeline.id);
end
$$;

-- A query's embedding, if one is known: it was kept, or a chunk has just that text.
create or replace function ai._query_embedding(g ai._generations, p_query text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_embedding text;
begin
  select q.embedding into v_embedding from ai._query_embeddings q
  where q.owner = quote_ident(current_user)::regrole and q.model = g.model and q.query_hash = ai._hash(p_query);
  if not found then
    execute format('select x.embedding::text from %s x where x.content_hash = $1 and x.embedding is not null limit 1', g.sink)
      into v_embedding using ai._hash(p_query);
  end if;
  return v_embedding;
end
$$;

-- The settings of pgvector for a search of so many rows, and back: p_saved is what it has answered.
create or replace function ai._tune(p_rows int, p_saved jsonb default null) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_saved constant jsonb := jsonb_build_object('hnsw.ef_search', current_setting('hnsw.ef_search', true),
                                               'hnsw.iterative_scan', current_setting('hnsw.iterative_scan', true));
  v_wanted constant jsonb := coalesce(p_saved,
    jsonb_build_object('hnsw.ef_search', least(1000, greatest(40, p_rows)), 'hnsw.iterative_scan', 'strict_order'));
begin
  perform set_config(w.key, w.value, true) from jsonb_each_text(v_wanted) w where v_saved ->> w.key is not null and w.value is not null;
  return v_saved;
end
$$;

create or replace function ai._search(g ai._generations, p_embedding text, p_query text, p_k int, p_filter text)
returns table (doc_id text, chunk_index int, chunk_text text, metadata jsonb, score double precision, found_by text)
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_rows constant int := greatest(50, 5 * p_k);
  v_type constant text := ai._embedding_type(g.sink);
  v_dimensions constant int := (g.plan ->> 'dimensions')::int;
  v_given constant int := case when p_embedding is not null then cardinality(string_to_array(p_embedding, ',')) end;
  v_columns constant text := format('%s, x.chunk_index, x.chunk_text, x.metadata', case when jsonb_array_length(g.plan -> 'key') = 1
    then 'x.doc_id::text' else 'jsonb_build_array(' || ai._of_key(g.plan, 'x.%3') || ')::text' end || ' as doc');
  v_text text := 'x.chunk_tsv';
  v_saved jsonb;
begin
  if p_k is null or p_k not between 1 and 10000 then
    raise exception 'k must be from 1 to 10000, and is %', p_k using errcode = 'invalid_parameter_value';
  elsif v_given <> v_dimensions then
    raise exception 'the embedding has % dimensions, and those of the pipeline have %', v_given, v_dimensions
      using errcode = 'invalid_parameter_value', hint = format('Embed the query with model "%s" (ai.models).', g.model);
  end if;
  if not exists (select from pg_attribute a where a.attrelid = g.sink and a.attname = 'chunk_tsv' and not a.attisdropped) then
    v_text := format('to_tsvector(%L::regconfig, x.chunk_text)', g.plan ->> 'text_search');
  end if;
  if p_embedding is not null then
    execute format('select %L::%s', p_embedding, v_type);  -- loads pgvector, whose settings are known then
    v_saved := ai._tune(v_rows);
  end if;
  return query execute format(
    'with asked as (select case when $1 is null then replace(plainto_tsquery(%1$L::regconfig, $2)::text, '' & '', '' | '')::tsquery
                                else websearch_to_tsquery(%1$L::regconfig, $2) end as words),
          near as (
            select x.*, row_number() over (order by x.distance) as rank from (
              select %2$s, x.embedding operator(%3$s.<=>) $1::%4$s as distance from %5$s x
              where $1 is not null and x.embedding is not null and (%6$s)
              order by x.embedding operator(%3$s.<=>) $1::%4$s limit %7$s) x),
          said as (
            select x.*, row_number() over (order by x.fit desc, x.doc, x.chunk_index) as rank from (
              select %2$s, ts_rank_cd(%8$s, a.words, 1) as fit from %5$s x, asked a
              where $2 is not null and %8$s @@ a.words and (%6$s)
              order by fit desc limit %7$s) x)
     select f.doc, f.chunk_index, min(f.chunk_text), (array_agg(f.metadata))[1], sum(1.0 / (60 + f.rank))::float8, string_agg(f.by, ''+'' order by f.by desc)
     from (select n.doc, n.chunk_index, n.chunk_text, n.metadata, n.rank, ''vector'' as by from near n
           union all select s.doc, s.chunk_index, s.chunk_text, s.metadata, s.rank, ''text'' from said s) f
     group by f.doc, f.chunk_index
     order by 5 desc, 1, 2 limit %9$s',
    g.plan ->> 'text_search', v_columns, ai._vector_schema(), v_type, g.sink, coalesce(p_filter, 'true'), v_rows, v_text, p_k)
    using p_embedding, p_query;
  if v_saved is not null then
    perform ai._tune(v_rows, v_saved);
  end if;
end
$$;

create or replace function ai.search(name text, query text, k int default 5, filter text default null)
returns table (doc_id text, chunk_index int, chunk_text text, metadata jsonb, score double precision, found_by text)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  g constant ai._generations := ai._lock_serving(name);
begin
  return query select * from ai._search(g, ai._query_embedding(g, search.query), search.query, k, filter);
end
$$;
comment on function ai.search(text, text, int, text) is
  'The k chunks of a pipeline of the current user that fit a query best: by full text (any of its words), and by vector, with text that has all its words, if the embedding of the query is known: by ai.embed_query or ai.remember_query before, or because a chunk has just that text. found_by says by which a row was found: vector+text, vector, text. Both are merged by reciprocal rank, which is the score. filter: a condition on the columns of the sink, SQL that is run as the caller: metadata ->> ''lang'' = ''en''. doc_id: the key of the row, of several columns as a JSON array. Raises 42704, 22023, and what the filter raises';

create or replace function ai.search_vector(name text, embedding text, query text default null, k int default 5, filter text default null)
returns table (doc_id text, chunk_index int, chunk_text text, metadata jsonb, score double precision, found_by text)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  g constant ai._generations := ai._lock_serving(name);
begin
  if search_vector.embedding is null then
    raise exception 'ai.search_vector: embedding must not be NULL' using errcode = 'null_value_not_allowed';
  end if;
  return query select * from ai._search(g, search_vector.embedding, search_vector.query, k, filter);
end
$$;
comment on function ai.search_vector(text, text, text, int, text) is
  'As ai.search, with the embedding of the query, written as [0.1, 0.2, ...], from the model of the pipeline; by vector alone, or with a query by full text, too. Raises 22023 for another number of dimensions';

create or replace function ai.search_vector(name text, embedding real[], query text default null, k int default 5, filter text default null)
returns table (doc_id text, chunk_index int, chunk_text text, metadata jsonb, score double precision, found_by text)
language sql set search_path = pg_catalog, pg_temp as $$
  select * from ai.search_vector(name, '[' || array_to_string(embedding, ',') || ']', query, k, filter)
$$;
comment on function ai.search_vector(text, real[], text, int, text) is 'The same, with the embedding as an array or a vector';

create or replace function ai.remember_query(name text, query text, embedding text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  g constant ai._generations := ai._serving((ai._pipeline(name)).id);
begin
  if cardinality(string_to_array(embedding, ',')) <> (g.plan ->> 'dimensions')::int then
    raise exception 'the embedding has % dimensions, and those of the pipeline have %', cardinality(string_to_array(embedding, ',')),
      g.plan ->> 'dimensions' using errcode = 'invalid_parameter_value';
  end if;
  insert into ai._query_embeddings as q (model, query_hash, embedding) values (g.model, ai._hash(query), remember_query.embedding)
  on conflict (owner, model, query_hash) do update set embedding = excluded.embedding, made_at = now();
  return 'OK';
end
$$;
comment on function ai.remember_query(text, text, text) is
  'Keeps the embedding of a query for ai.search, for all pipelines of the current user with that model. Returns OK; raises 42704, 22023 for another number of dimensions';

-- Of the run of ai.embed_query.
create or replace function ai._remember_answer(p_name text, p_query text, p_status int, p_body text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  m constant ai.models := ai._model((ai._serving((ai._pipeline(p_name)).id)).model);
begin
  if p_status not between 200 and 299 then
    raise exception 'model "%": HTTP %: %', m.name, p_status, left(p_body, 500) using errcode = 'AI001';
  end if;
  perform ai._note_usage(p_name, m, 1, (p_body::jsonb #>> '{usage,total_tokens}')::numeric::bigint);
  return ai.remember_query(p_name, p_query, (select e.embedding from ai._embeddings(m, 1, p_body) e));
end
$$;

create or replace function ai.embed_query(name text, query text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_pipeline constant ai._pipelines := ai._pipeline(name);
  m constant ai.models := ai._model((ai._serving(v_pipeline.id)).model);
begin
  return df.start(df.seq(
      df.as(df.within(ai._limit_name(m.name), ai._http(m, '$input.body'), v_pipeline.name), 'r'),
      'SELECT ai._remember_answer($input.name, $input.query, $r.status, $r.body)'),
    'ai-query:' || v_pipeline.name,
    input => jsonb_build_object('name', v_pipeline.name, 'query', query,
                                'body', jsonb_build_object('model', m.model, 'input', array[query])::text));
end
$$;
comment on function ai.embed_query(text, text) is
  'Has the model of a pipeline embed a query, within its limit, and keeps the embedding for ai.search; returns the id of the run that does it: df.await_instance waits for it. Raises 42704';

-- Generations: another model, other sizes or another template make a new sink beside the one that serves, which takes its place when it is complete.

create or replace function ai.alter_pipeline(
  name text, source jsonb default null, steps jsonb[] default null, error_handling text default null, model text default null
) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  v_pipeline constant ai._pipelines := ai._pipeline(name);
  v_definition jsonb := v_pipeline.definition;
  v_new jsonb;
  g ai._generations;
begin
  if error_handling not in ('skip', 'fail', 'pause') then
    raise exception 'ai.alter_pipeline: error_handling must be skip, fail or pause' using errcode = 'invalid_parameter_value';
  elsif error_handling is not null then
    update ai._pipelines p set error_handling = alter_pipeline.error_handling where p.id = v_pipeline.id;
  end if;
  v_new := v_definition || jsonb_strip_nulls(jsonb_build_object('source', source, 'steps', to_jsonb(steps)));
  if model is not null then
    v_new := v_new || jsonb_build_object('steps', (
      select jsonb_agg(case when s.value ->> 'kind' = 'embed' then s.value - 'dimensions' || jsonb_build_object('model', model) else s.value end order by s.n)
      from jsonb_array_elements(v_new -> 'steps') with ordinality s(value, n)));
  end if;
  for g in select x.* from ai._generations x where x.pipeline = v_pipeline.id and not x.serving loop
    if g.plan -> 'definition' <> v_new then
      perform ai._drop_generation(g, true);
    end if;
  end loop;
  if v_new = v_definition or exists (select from ai._generations x where x.pipeline = v_pipeline.id and not x.serving) then
    return 'OK';
  elsif v_new #>> '{source,table}' <> v_definition #>> '{source,table}' then
    raise exception 'ai.alter_pipeline: the table of a pipeline''s source cannot be changed' using errcode = 'feature_not_supported',
      hint = 'Create another pipeline.';
  elsif not (v_definition #>> '{sink,create_table}')::boolean then
    raise exception 'ai.alter_pipeline: the next generation needs a sink beside the one of your own' using errcode = 'feature_not_supported',
      hint = 'Create another pipeline, with a sink that it makes.';
  end if;
  perform ai._make_generation(v_pipeline, v_new, false);
  return 'OK';
end
$$;
comment on function ai.alter_pipeline(text, jsonb, jsonb[], text, text) is
  'Changes a pipeline of the current user: its source (of the same table), its steps, or its model alone build the next generation beside the one that serves, which is promoted when all is embedded and indexed; ai.status shows both. Texts whose embedding by the same model is known are not sent. Altered back, the next generation is dropped. error_handling changes at once. Returns OK; raises what ai.create_pipeline raises, and 0A000 for another table and for a sink of one''s own';

-- Lets a generation take the place of the one that serves: its sink gets the name. Searches wait for it for as long as the transaction takes.
create or replace function ai._promote(p_generation bigint) returns text
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
declare
  g constant ai._generations := (select x from ai._generations x where x.id = p_generation);
  v_old constant ai._generations := ai._serving(g.pipeline);
  v_name constant text := (select c.relname from pg_class c where c.oid = v_old.sink);
begin
  if g.serving then
    return 'OK';
  end if;
  execute format('lock table %s, %s, %s, %s in access exclusive mode', v_old.source, v_old.sink, g.sink, v_old.queue);
  perform ai._drop_generation(v_old, true);
  execute format('alter table %s rename to %I', g.sink, v_name);
  update ai._generations x set serving = true where x.id = g.id;
  update ai._pipelines p set definition = g.plan -> 'definition' where p.id = g.pipeline;
  return 'OK';
end
$$;

create or replace function ai.promote(name text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_pipeline constant ai._pipelines := ai._pipeline(name);
  g ai._generations;
begin
  select x.* into g from ai._generations x where x.pipeline = v_pipeline.id and not x.serving;
  if not found then
    raise exception 'pipeline "%" has no next generation', name using errcode = 'object_not_in_prerequisite_state',
      hint = 'ai.alter_pipeline makes one.';
  end if;
  perform ai._promote(g.id);
  perform ai._start(g.id);  -- its flow names the sink
  return 'OK';
end
$$;
comment on function ai.promote(text) is
  'Lets the next generation of a pipeline of the current user serve now, complete or not, and drops the one before. Returns OK; raises 42704, and 55000 when there is none';

-- Access: who may have pipelines.

create or replace function ai.grant_usage(role_name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  execute format('grant usage on schema ai to %I', role_name);
  execute format('grant select, insert, update, delete on ai.models, ai._pipelines, ai._generations, ai._refusals, ai._usage, ai._budgets, '
                 'ai._query_embeddings to %I', role_name);
  execute format('grant usage on sequence ai._generations_id_seq to %I', role_name);
  execute format('grant select on ai.failures, ai.usage to %I', role_name);
end
$$;
comment on function ai.grant_usage(text) is
  'Lets a role have models and pipelines of its own. It needs df.grant_usage(role, include_http => true) as well, and df.http_allow for the hosts of its models. For the owner of the schema ai';

create or replace function ai.revoke_usage(role_name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  execute format('revoke all on all tables in schema ai from %I', role_name);
  execute format('revoke all on all sequences in schema ai from %I', role_name);
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
