"""What every step may rely on, whatever its role's defaults are: workers log in with it, and df.work makes it so."""

STEP_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO,MDY",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "df.in_workflow": "true",
}
