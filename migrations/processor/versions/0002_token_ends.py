"""progress.token_ends: the H at which each earlier token was replaced.

The version before neither reads nor writes it: tokens that it replaces have no end there, and the
row's H counts instead, as before.

Revision ID: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SCHEMA = "processor"


def upgrade() -> None:
    op.add_column(
        "progress",
        sa.Column(
            "token_ends",
            postgresql.JSONB(),
            server_default="{}",
            nullable=False,
            comment="of the tokens before: the H at which each was replaced",
        ),
        schema=SCHEMA,
    )


def downgrade() -> None:
    op.drop_column("progress", "token_ends", schema=SCHEMA)
