"""How flows are written: builders, operators, flow text, references, and what is refused."""
