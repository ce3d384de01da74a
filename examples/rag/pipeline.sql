-- The model, at the address in example.model; what a pipeline does with the documents; and the pipeline at work.
-- Prices are of no model in particular.
SELECT ai.set_model('small', url => current_setting('example.model'), model => 'all-MiniLM-L6-v2', dimensions => 384,
                    batch_size => 16, concurrency => 2, price_per_million => 0.02);
SELECT ai.create_pipeline('docs',
  source => ai.table_source('documents', columns => ARRAY['topic', 'lang', 'title']),
  steps => ARRAY[ai.chunk('body', chunk_size => 512, overlap => 64, template => '{title}: {chunk}'),
                 ai.embed('small', input => 'chunk_text')],
  trigger => 'on_change',
  sink => ai.table_sink('documents_chunks'));
