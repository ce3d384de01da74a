"""The parameters with which a worker connects."""

from pg_durable.login import CONNECTION_DEFAULTS, Login


def test_both_sides_notice_within_a_minute_that_the_network_is_gone() -> None:
    parameters = Login("host=db.example").for_role("app")
    idle, interval, count = (int(parameters[f"keepalives_{name}"]) for name in ("idle", "interval", "count"))
    assert idle + interval * count <= 60
    assert int(parameters["tcp_user_timeout"]) < 60_000
    for setting in ("tcp_keepalives_idle=30", "tcp_keepalives_interval=10", "tcp_keepalives_count=3"):
        assert f"-c {setting}" in parameters["options"]
    assert "-c tcp_user_timeout=50s" in parameters["options"]


def test_what_the_connection_string_says_comes_first() -> None:
    parameters = Login("host=db.example tcp_user_timeout=5000").for_role("app")
    assert parameters["tcp_user_timeout"] == "5000" != CONNECTION_DEFAULTS["tcp_user_timeout"]
