"""The assets, a file for each group. Each calls one function of the pipeline and says in metadata what a person looks at.

A version of the code that is named here is raised when equal inputs give something else: Dagster then shows what was made
before as out of date.
"""
