"""Pipelines that run on the processor: applications, not part of the product."""
