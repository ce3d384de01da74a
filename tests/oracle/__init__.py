"""The engine against an independent model of the contract, on random graphs."""
