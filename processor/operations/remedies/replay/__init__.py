"""``offsets replay-effects``: the database has lost [H, K), of which Kafka has the outputs.

The handlers run again over these messages and their effects are committed; what they output is
compared with what was published, and not published again. It runs in the command, beside a halted
owner (docs/decisions/0006): as long as H < K recovery halts the partition, whoever owns it, so no
one else moves H; and each batch compares and sets H under the command's own token. A command that
dies is run again, and goes on at H.

::

    plan.py      the range, or a refusal: pure
    compare.py   outputs against outputs: pure
    feed.py      the messages, in slices
    batches.py   the handlers, outside a worker
    holding.py   the row: claimed, handed back
    run.py       claim, batches, finish
"""
