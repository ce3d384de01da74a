"""The pages: each module has ROUTES, and functions of a View."""
