-- changes: what has changed since a mark: ids of runs, and the new mark.
select c.mark, c.instance_id
from df.changes(%(mark)s) c
