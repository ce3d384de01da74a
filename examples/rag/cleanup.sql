SELECT ai.drop_pipeline('docs');
SELECT ai.unset_model('small');
DROP TABLE documents;
