SELECT df.unsetvar('service');
DROP TABLE http_chunk, http_document, http_company, http_upload, http_record;
