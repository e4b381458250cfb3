"""The main job: what users do on a site, counted, kept and told on, each event exactly once."""

from pipelines.user_events.handlers import pipeline
from pipelines.user_events.producer import DeliveryError, UserEventProducer
from pipelines.user_events.samples import sample_events

__all__ = ["DeliveryError", "UserEventProducer", "pipeline", "sample_events"]
