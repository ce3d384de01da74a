DROP TABLE maint_event, maint_clean, maint_finding;
