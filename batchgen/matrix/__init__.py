"""From a manifest to its jobs: the only walker of a matrix, over the frozen values of `batchgen.manifest.model`.

Product, zip, sample, exclusion and skipping are decided here; `checks` and the plan use the same walker from above.
"""
