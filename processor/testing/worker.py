"""The engine's own worker, put together over what is in memory."""

from __future__ import annotations

from processor.engine.assembly import Slot, assemble
from processor.engine.cluster import Cluster
from processor.engine.database import Database, application_name
from processor.engine.observer import Observer
from processor.engine.output_topics import DEFAULT_MAX_MESSAGE_BYTES
from processor.engine.steps import Steps
from processor.errors import Exit
from processor.pipeline import Pipeline
from processor.settings import Settings
from processor.testing.kafka.broker import Broker
from processor.testing.kafka.clients import SimulatedClients
from processor.testing.network import Network
from processor.testing.postgres import Server
from processor.testing.scheduler import Clock


def run_worker(
    pipeline: Pipeline,
    settings: Settings,
    broker: Broker,
    server: Server,
    network: Network,
    observer: Observer,
    steps: Steps,
) -> Exit:
    """One slot, from its start until its process ends.

    :raises ProcessorError: as the real one's.
    """
    group = pipeline.name
    slot = Slot(group, settings.instance, 0)
    clients = SimulatedClients(broker, network, settings.kafka, group, str(slot))
    database = Database(
        settings.database,
        application_name(group, str(slot)),
        pipeline.isolation.upper(),
        steps,
        server.connect,
    )
    worker = assemble(
        pipeline,
        settings,
        slot,
        observer,
        lambda: False,
        steps,
        database,
        clients,
        Cluster(clients.admin, group, steps),
        broker.cluster_id,
        dict.fromkeys(pipeline.outputs, DEFAULT_MAX_MESSAGE_BYTES),
        {},
        Clock(network.time),
    )
    return worker.run(_no_beat)


def _no_beat() -> None:
    """Nobody watches the loop here."""
