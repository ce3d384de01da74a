DROP FUNCTION maint_look, maint_ages, maint_pages, maint_blockers;
DROP TABLE maint_event, maint_archive, maint_clean, maint_finding;
