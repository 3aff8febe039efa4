"""The checks: one file each, named by its code; `framework` finds and runs them."""
