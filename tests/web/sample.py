"""Runs in all states, as a shop would have them: what the pictures of the documentation show."""

from typing import Any

from tests.support import Database, Pump, wait_until

ORDER = """
  df.as('select 17 as id, 249.00 as amount, ''Ada'' as customer', 'order')
  ~> df.as('select $order.id as shipment, ''2 parcels'' as what', 'shipment')
  ~> df.join('select pg_sleep(0.02), ''invoice for $order.customer''', 'select pg_sleep(0.05), ''label''')
  ~> 'select $shipment.shipment as done'
"""
FAILS = """
  'select 1 as stock' |=> 'stock'
  ~> df.retry('select 1 / ($stock.stock - 1)', 2, initial_delay => '0.01 s')
  ~> 'select ''never'''
"""
WAITS = """
  'select 4200 as amount' |=> 'invoice'
  ~> df.wait_for_signal('approve', 86400) |=> 'answer'
  ~> df.if('select $answer.data.approved::boolean', 'select ''paid''', 'select ''refused''')
"""


def fill(db: Database, pump: Pump) -> dict[str, Any]:
    """Makes them; answers their ids and where to look at them."""
    completed = [pump.run(ORDER, "ship order").id for _ in range(6)]
    failed = [pump.start(FAILS, "charge card").id for _ in range(3)]
    waiting = pump.start(WAITS, "approve invoice").id
    paused = pump.start("df.sleep(3600) ~> 'select 1'", "send reminders").id
    cancelled = pump.start("df.sleep(3600)", "import catalogue").id
    db.sql("select df.cancel(%s, 'the file was wrong')", cancelled)
    db.sql("select df.pause(%s, 'the mail server moves')", paused)
    pump.until(lambda: db.sql("select count(*) from df.instances where status = 'failed'") == 3)
    pump.until(lambda: db.sql("select df.status(%s)", cancelled) == "cancelled")
    pump.until(lambda: db.sql("select count(*) from df.waiting where kind = 'signal'") == 1)
    wait_until(lambda: db.sql("select df.status(%s)", waiting) == "running")
    node = db.sql("select id from df.nodes where instance_id = %s and query ~ 'shipment, '", completed[-1])
    pages = {
        "runs": "/runs",
        "runs-failed": "/runs?status=failed&error=zero",
        "run": f"/runs/{completed[-1]}?node={node}",
        "run-failed": f"/runs/{failed[0]}",
        "run-waiting": f"/runs/{waiting}",
        "cancel": f"/runs/{waiting}/cancel",
        "bulk": "/runs/all/rerun?status=failed",
        "missing": "/runs/00000000",
    }
    return {"completed": completed, "failed": failed, "waiting": waiting, "paused": paused, "pages": pages}
