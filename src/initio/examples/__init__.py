"""Small models that ship with the package: `initio check` without a target runs on them.

Each file names its model `Model` and its input `INPUT`; the first line of its docstring says what it shows.
"""
