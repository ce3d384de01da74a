-- Finds chunks: by what they mean (way 'vector'), by their words ('text'), or by both ('hybrid'): 1/60 for the first, 1/61
-- for the second, ... of each list, added up. That is reciprocal rank fusion.
CREATE FUNCTION find(query text, vector halfvec, way text) RETURNS TABLE (doc_id int, chunk_text text, score numeric)
LANGUAGE sql STABLE AS $$
  WITH words AS (
    SELECT websearch_to_tsquery('english', query) AS wanted
  ), near AS (
    SELECT c.doc_id, c.chunk_index, row_number() OVER () AS place
    FROM (SELECT * FROM documents_chunks d ORDER BY d.embedding <=> vector LIMIT 40) c
    WHERE way IN ('vector', 'hybrid')
  ), matching AS (
    SELECT c.doc_id, c.chunk_index, row_number() OVER () AS place
    FROM (SELECT d.* FROM documents_chunks d, words w WHERE d.chunk_tsv @@ w.wanted
          ORDER BY ts_rank_cd(d.chunk_tsv, w.wanted) DESC, d.doc_id LIMIT 40) c
    WHERE way IN ('text', 'hybrid')
  ), fused AS (
    SELECT f.doc_id, f.chunk_index, sum(1.0 / (59 + f.place)) AS score
    FROM (SELECT * FROM near UNION ALL SELECT * FROM matching) f GROUP BY f.doc_id, f.chunk_index
  )
  SELECT c.doc_id, c.chunk_text, f.score FROM fused f JOIN documents_chunks c USING (doc_id, chunk_index)
  ORDER BY f.score DESC, c.doc_id, c.chunk_index
$$;
