----------------------------- MODULE Processor -----------------------------
(***************************************************************************)
(* One input partition, processed exactly once into Postgres and Kafka.    *)
(*                                                                         *)
(* The messages are 0 .. N - 1.  Handling a message changes Postgres, and  *)
(* unless the message is in Silent it makes one output.  The claim is that *)
(* each message changes Postgres once and appears in the output once, in   *)
(* order, whatever faults happen; and that after a restore of the database *)
(* to an older state nobody goes on as if nothing had happened.            *)
(*                                                                         *)
(* docs/protocol.md tells the same in prose.  The code that each action    *)
(* stands for is named above it.                                           *)
(*                                                                         *)
(* How the space is kept small, and why nothing is lost by it:             *)
(*  - A producer epoch is not counted.  Raising it deletes every late      *)
(*    request of that producer, because the broker would refuse them all.  *)
(*  - A group generation is not counted.  A worker's snapshot of it either *)
(*    is the current one (cur) or will be refused for ever.                *)
(*  - A Postgres transaction that takes the row lock and commits, with     *)
(*    nothing of interest in between, is one step.  The batch's is not:    *)
(*    its COMMIT may be on its way while the lock is held (pg).            *)
(***************************************************************************)
EXTENDS Integers, Sequences, FiniteSets

CONSTANTS
    N,          \* how many messages there are
    Silent,     \* those that make no output
    MaxBatch,   \* messages in a batch, at most
    Workers,
    First,      \* the worker that owns the partition at the start
    LateKinds,  \* requests that may arrive late: "commit" "abort" "offsets"
    MaxFaults,  \* faults in one behaviour, at most
    Faults      \* kinds: "crash" "rebalance" "resend" "timeout" "unknown" "expire"
                \*        "zombie" "restore"

(* The guards.  Each is TRUE in the protocol; a mutant takes one out. *)
CONSTANTS
    CAS,                \* the batch's UPDATE compares H with the batch's first offset
    TokenCompared,      \* ... and the row's token with the worker's
    CheckRowCount,      \* COMMIT only when the UPDATE hit its row
    DoubtUnknownCommit, \* a COMMIT without an answer is a doubt, not a success
    EndAfterCommit,     \* EndTxn only after the COMMIT is known
    OffsetsInTxn,       \* outputs and offset in the same Kafka transaction
    RetireAfterDoubt,   \* a new producer epoch after every doubt
    SnapshotMetadata,   \* offsets carry the generation that their messages were read in
    DropOnAssignment,   \* an assignment callback drops what is in hand
    StableK,            \* K is not read while a transaction that moves it is open
    SecondReading,      \* a halt needs two equal readings
    LockBeforeOutbox,   \* recovery locks the row before it reads the outbox
    RenewToken,         \* recovery gives the row a new token
    KeepTokens,         \* the row lists every token that may still be in K
    PruneByP,           \* the outbox is pruned below P, not below H
    HaltOnRollback,     \* K > H halts
    KnownToken,         \* a token in K that the row does not list halts
    TokenEnds,          \* so does a K above the H at which the row replaced K's token
    WatchRow            \* housekeeping compares the row with what the worker believes of it

VARIABLES
    \* Postgres
    db,       \* the row [h, p, token, old], the outbox, and the handlers' effects; old lists the
              \* replaced tokens that may still be in K, each with the H at which it was replaced
    pg,       \* the batch transaction that holds the row lock, its COMMIT under way
    backup,   \* an older state that the database may be restored to
    restored,
    issued,   \* tokens issued so far; tokens are random, so a restore repeats none
    \* Kafka
    k,        \* the group's committed offset: [at, token]
    out,      \* the output topic as read_committed shows it
    txn,      \* of each producer: its transaction as the broker sees it
    late,     \* requests that arrive later than their sender thinks
    owner,    \* whom the group has given the partition
    \* the workers
    cur,      \* whether its snapshot of the group is of the current generation
    prod,     \* its producer: "ok", "fenced", "none"
    pc,
    read,     \* what recovery or housekeeping has read: K, and perhaps the outbox
    bel,      \* what it believes: h, token, sent (K), p
    job,      \* the batch or publication in hand
    \* the rest
    faults,   \* how many are still to come
    wentOn    \* somebody went on although the stores tell different stories

pgVars    == <<db, pg, backup, restored, issued>>
kafkaVars == <<k, out, txn, late, owner>>
ownVars   == <<cur, prod, pc, read, bel, job>>
vars      == <<db, pg, backup, restored, issued, k, out, txn, late, owner,
               cur, prod, pc, read, bel, job, faults, wentOn>>

-----------------------------------------------------------------------------
(* Values *)

NoOffset == [at |-> -1, token |-> 0]
NoRead   == [k |-> NoOffset, box |-> {}, suspects |-> <<>>]
NoBelief == [h |-> 0, token |-> 0, sent |-> 0, p |-> 0]
NoJob    == [kind |-> "none", first |-> 0, next |-> 0, outs |-> <<>>,
             db |-> "done", prod |-> "done", offs |-> "done", end |-> "done"]
NoPg     == [by |-> "nobody"]
NoTxn    == [st |-> "none", outs |-> <<>>, off |-> NoOffset]

Range(s) == {s[i] : i \in DOMAIN s}

(* What handling [first, next) does.  A mark says which run of the handlers it came from:
   two runs of a message may differ, so an output must be of the run that Postgres holds. *)
Marks(w, first, next) ==
    [i \in 1 .. next - first |-> [at |-> first + i - 1, by |-> w, token |-> bel[w].token]]

Loud(mark) == mark.at \notin Silent

(* [start, end) is covered without gap or overlap by the outbox rows that reach beyond start. *)
RECURSIVE Tiles(_, _, _)
Tiles(box, start, end) ==
    LET rest == {r \in box : r.next > start} IN
    IF rest = {} THEN start = end
    ELSE \E r \in rest : r.first = start /\ Tiles(rest \ {r}, r.next, end)

RECURSIVE Payload(_, _)
Payload(box, start) ==
    LET rest == {r \in box : r.first >= start} IN
    IF rest = {} THEN <<>>
    ELSE LET r == CHOOSE r \in rest : \A other \in rest : r.first <= other.first
         IN r.outs \o Payload(rest \ {r}, r.next)

Pending(w) == txn[w].st = "open" /\ txn[w].off # NoOffset
Stable     == ~StableK \/ \A w \in Workers : ~Pending(w)

(* Whether a token in K is the row's own, or one that it has replaced and still lists. *)
Listed(token) == token = db.token \/ \E o \in db.old : o.token = token

(* Whoever held a replaced token moved H no further than to its end, and K no further than H. *)
BeyondEnd(K) == \E o \in db.old : o.token = K.token /\ K.at > o.end

(* The stores tell different stories: an output is visible whose run Postgres does not know. *)
Torn == \E i \in DOMAIN out : out[i] \notin Range(db.eff)

Fault(kind) == kind \in Faults /\ faults > 0 /\ faults' = faults - 1
NoFault     == UNCHANGED faults

-----------------------------------------------------------------------------
Init ==
    /\ db = [h |-> 0, p |-> 0, token |-> 1, old |-> {}, box |-> {}, eff |-> <<>>]
    /\ pg = NoPg
    /\ backup = db
    /\ restored = FALSE
    /\ issued = 1
    /\ k = [at |-> 0, token |-> 1]
    /\ out = <<>>
    /\ txn = [w \in Workers |-> NoTxn]
    /\ late = {}
    /\ owner = First
    /\ cur = [w \in Workers |-> TRUE]
    /\ prod = [w \in Workers |-> IF w = First THEN "ok" ELSE "none"]
    /\ pc = [w \in Workers |-> IF w = First THEN "run" ELSE "idle"]
    /\ read = [w \in Workers |-> NoRead]
    /\ bel = [w \in Workers |->
                IF w = First THEN [h |-> 0, token |-> 1, sent |-> 0, p |-> 0] ELSE NoBelief]
    /\ job = [w \in Workers |-> NoJob]
    /\ faults = MaxFaults
    /\ wentOn = FALSE

-----------------------------------------------------------------------------
(* What a worker does when it no longer knows: it forgets, and recovers. *)

Forget(w, to) ==
    /\ pc' = [pc EXCEPT ![w] = to]
    /\ job' = [job EXCEPT ![w] = NoJob]
    /\ bel' = [bel EXCEPT ![w] = NoBelief]
    /\ read' = [read EXCEPT ![w] = NoRead]

Doubt(w) == Forget(w, "init")

-----------------------------------------------------------------------------
(* One batch: batches.py *)

Begin(w) ==
    /\ pc[w] = "run" /\ bel[w].h < N
    /\ \E next \in bel[w].h + 1 .. IF bel[w].h + MaxBatch < N THEN bel[w].h + MaxBatch ELSE N :
        LET outs == SelectSeq(Marks(w, bel[w].h, next), Loud)
            todo == IF outs = <<>> THEN "done" ELSE "todo"
        IN job' = [job EXCEPT ![w] =
                [kind |-> "batch", first |-> bel[w].h, next |-> next, outs |-> outs,
                 db |-> "todo", prod |-> todo, offs |-> todo, end |-> todo]]
    /\ pc' = [pc EXCEPT ![w] = "job"]
    /\ NoFault /\ UNCHANGED <<pgVars, kafkaVars, cur, prod, read, bel, wentOn>>

(* store.py: effects, outbox row and compare-and-set; then COMMIT is sent.  The row lock is held
   until that COMMIT lands or is lost. *)
Store(w) ==
    LET j == job[w]
        hit == (CAS => db.h = j.first) /\ (TokenCompared => db.token = bel[w].token)
        twice == \E r \in db.box : r.first = j.first   \* the outbox's primary key
        new == [db EXCEPT !.h = IF hit THEN j.next ELSE @,
                          !.eff = @ \o Marks(w, j.first, j.next),
                          !.box = @ \cup {[first |-> j.first, next |-> j.next, outs |-> j.outs]}]
    IN
    /\ pc[w] = "job" /\ j.db = "todo" /\ pg = NoPg
    /\ IF twice \/ (CheckRowCount /\ ~hit)
       THEN Doubt(w) /\ UNCHANGED pg
       ELSE /\ pg' = [by |-> w, new |-> new]
            /\ job' = [job EXCEPT ![w].db = "sent"]
            /\ UNCHANGED <<pc, bel, read>>
    /\ NoFault /\ UNCHANGED <<db, backup, restored, issued, kafkaVars, cur, prod, wentOn>>

(* Postgres: a COMMIT that was sent takes effect, now or after its sender has given up ... *)
Land ==
    /\ pg # NoPg
    /\ db' = pg.new /\ pg' = NoPg
    /\ NoFault /\ UNCHANGED <<backup, restored, issued, kafkaVars, ownVars, wentOn>>

(* ... or never does, which its sender does not see as an answer. *)
Vanish ==
    /\ pg # NoPg
    /\ job[pg.by].db # "sent"
    /\ pg' = NoPg
    /\ NoFault /\ UNCHANGED <<db, backup, restored, issued, kafkaVars, ownVars, wentOn>>

CommitKnown(w) ==
    /\ pc[w] = "job" /\ job[w].db = "sent" /\ (pg = NoPg \/ pg.by # w)
    /\ job' = [job EXCEPT ![w].db = "done"]
    /\ NoFault /\ UNCHANGED <<pgVars, kafkaVars, cur, prod, pc, read, bel, wentOn>>

(* The connection is lost after COMMIT was sent. *)
CommitUnknown(w) ==
    /\ pc[w] = "job" /\ job[w].db = "sent" /\ Fault("unknown")
    /\ IF DoubtUnknownCommit
       THEN Doubt(w)
       ELSE job' = [job EXCEPT ![w].db = "done"] /\ UNCHANGED <<pc, bel, read>>
    /\ UNCHANGED <<pgVars, kafkaVars, cur, prod, wentOn>>

-----------------------------------------------------------------------------
(* The Kafka transaction: publisher.py.  Outputs and offsets may leave before COMMIT, in either
   order at the broker.  Whichever comes first opens the transaction. *)

Open(w) == IF txn[w].st = "open" THEN txn[w] ELSE [NoTxn EXCEPT !.st = "open"]

Produce(w) ==
    /\ pc[w] = "job" /\ job[w].prod = "todo"
    /\ IF prod[w] # "ok"
       THEN Doubt(w) /\ UNCHANGED txn
       ELSE /\ txn' = [txn EXCEPT ![w] = [Open(w) EXCEPT !.outs = @ \o job[w].outs]]
            /\ job' = [job EXCEPT ![w].prod = "done"]
            /\ UNCHANGED <<pc, bel, read>>
    /\ NoFault /\ UNCHANGED <<pgVars, k, out, late, owner, cur, prod, wentOn>>

Offset(w)   == [at |-> job[w].next, token |-> bel[w].token]
Accepted(w) == prod[w] = "ok" /\ (cur[w] \/ ~SnapshotMetadata)
WithOff(w)  == [txn EXCEPT ![w] = [Open(w) EXCEPT !.off = Offset(w)]]

SendOffsets(w) ==
    /\ pc[w] = "job" /\ job[w].offs = "todo" /\ OffsetsInTxn
    /\ \/ /\ ~Accepted(w)
          /\ Doubt(w) /\ NoFault /\ UNCHANGED <<txn, late>>
       \/ /\ Accepted(w)
          /\ txn' = WithOff(w)
          /\ job' = [job EXCEPT ![w].offs = "done"]
          /\ NoFault /\ UNCHANGED <<pc, bel, read, late>>
       \/ \* Sent twice by the client, which says success.  The original is still on its way.
          /\ Accepted(w) /\ Fault("resend")
          /\ txn' = WithOff(w)
          /\ late' = late \cup {[w |-> w, kind |-> "offsets", off |-> Offset(w)]}
          /\ IF RetireAfterDoubt
             THEN Doubt(w)
             ELSE job' = [job EXCEPT ![w].offs = "done"] /\ UNCHANGED <<pc, bel, read>>
       \/ \* No answer in time.  The request is still on its way.
          /\ Accepted(w) /\ Fault("timeout")
          /\ late' = late \cup {[w |-> w, kind |-> "offsets", off |-> Offset(w)]}
          /\ Doubt(w) /\ UNCHANGED txn
    /\ UNCHANGED <<pgVars, k, out, owner, cur, prod, wentOn>>

(* Only without OffsetsInTxn: the offset is committed by itself, after the outputs. *)
PlainOffset(w) ==
    /\ ~OffsetsInTxn
    /\ pc[w] = "job" /\ job[w].offs = "todo" /\ job[w].end = "done" /\ job[w].db = "done"
    /\ IF Accepted(w)
       THEN /\ k' = Offset(w)
            /\ job' = [job EXCEPT ![w].offs = "done"]
            /\ UNCHANGED <<pc, bel, read>>
       ELSE Doubt(w) /\ UNCHANGED k
    /\ NoFault /\ UNCHANGED <<pgVars, out, txn, late, owner, cur, prod, wentOn>>

(* The broker ends a transaction: its outputs become visible and its offset becomes K, at once. *)
BrokerCommits(w) ==
    /\ out' = out \o txn[w].outs
    /\ k' = IF txn[w].off = NoOffset THEN k ELSE txn[w].off
    /\ txn' = [txn EXCEPT ![w] = [NoTxn EXCEPT !.st = "committed"]]

LateEnd(w, how) == late' = late \cup {[w |-> w, kind |-> how, off |-> NoOffset]}

EndTxn(w) ==
    LET j == job[w] IN
    /\ pc[w] = "job" /\ j.end = "todo" /\ j.prod = "done"
    /\ OffsetsInTxn => j.offs = "done"
    /\ EndAfterCommit => j.db = "done"
    /\ \/ \* Fenced, or its transaction is gone: refused.
          /\ prod[w] # "ok" \/ txn[w].st \in {"none", "aborted"}
          /\ Doubt(w) /\ NoFault /\ UNCHANGED <<out, k, txn, late>>
       \/ \* Ended already, by a late request: the broker says success once more.
          /\ prod[w] = "ok" /\ txn[w].st = "committed"
          /\ job' = [job EXCEPT ![w].end = "done"]
          /\ NoFault /\ UNCHANGED <<out, k, txn, late, pc, bel, read>>
       \/ /\ prod[w] = "ok" /\ txn[w].st = "open"
          /\ BrokerCommits(w)
          /\ \/ /\ job' = [job EXCEPT ![w].end = "done"]
                /\ NoFault /\ UNCHANGED <<late, pc, bel, read>>
             \/ /\ Fault("resend") /\ LateEnd(w, "commit")
                /\ IF RetireAfterDoubt
                   THEN Doubt(w)
                   ELSE job' = [job EXCEPT ![w].end = "done"] /\ UNCHANGED <<pc, bel, read>>
       \/ /\ prod[w] = "ok" /\ txn[w].st = "open"
          /\ Fault("timeout") /\ LateEnd(w, "commit")
          /\ Doubt(w) /\ UNCHANGED <<out, k, txn>>
    /\ UNCHANGED <<pgVars, owner, cur, prod, wentOn>>

(* A late request arrives.  The producer's epoch still is the one that it was sent under, so the
   broker (without KIP-890) takes it for a request of whatever transaction is open now. *)
Arrive(r) ==
    /\ late' = late \ {r}
    /\ IF txn[r.w].st # "open"
       THEN UNCHANGED <<out, k, txn>>
       ELSE CASE r.kind = "commit"  -> BrokerCommits(r.w)
              [] r.kind = "abort"   -> /\ txn' = [txn EXCEPT ![r.w] = [NoTxn EXCEPT !.st = "aborted"]]
                                       /\ UNCHANGED <<out, k>>
              [] r.kind = "offsets" -> /\ txn' = [txn EXCEPT ![r.w].off = r.off]
                                       /\ UNCHANGED <<out, k>>
    /\ NoFault /\ UNCHANGED <<pgVars, owner, ownVars, wentOn>>

ArriveLate == \E r \in late : r.kind \in LateKinds /\ Arrive(r)

(* transaction.timeout.ms: the broker aborts and raises the epoch.  Of a worker that is busy with
   the transaction it is a fault; of one that has left it behind it happens sooner or later. *)
Expire(w) ==
    /\ txn[w].st = "open"
    /\ IF pc[w] = "job" THEN Fault("expire") ELSE NoFault
    /\ txn' = [txn EXCEPT ![w] = [NoTxn EXCEPT !.st = "aborted"]]
    /\ prod' = [prod EXCEPT ![w] = IF @ = "ok" THEN "fenced" ELSE @]
    /\ late' = {r \in late : r.w # w}
    /\ UNCHANGED <<pgVars, k, out, owner, cur, pc, read, bel, job, wentOn>>

-----------------------------------------------------------------------------
(* The end of a job.  After a republication recovery reads everything again. *)
Finish(w) ==
    LET j == job[w] IN
    /\ pc[w] = "job"
    /\ j.db = "done" /\ j.prod = "done" /\ j.offs = "done" /\ j.end = "done"
    /\ IF j.kind = "republish"
       THEN Forget(w, "readK")
       ELSE /\ pc' = [pc EXCEPT ![w] = "run"]
            /\ job' = [job EXCEPT ![w] = NoJob]
            /\ bel' = [bel EXCEPT ![w].h = j.next,
                                  ![w].sent = IF j.kind = "batch" /\ j.outs = <<>> THEN @ ELSE j.next]
            /\ UNCHANGED read
    /\ NoFault /\ UNCHANGED <<pgVars, kafkaVars, cur, prod, wentOn>>

(* housekeeping.py: K follows where a batch had no outputs ... *)
Publication(kind, first, next, outs) ==
    [kind |-> kind, first |-> first, next |-> next, outs |-> outs,
     db |-> "done", prod |-> "todo", offs |-> "todo", end |-> "todo"]

Follow(w) ==
    /\ pc[w] = "run" /\ bel[w].sent < bel[w].h
    /\ job' = [job EXCEPT ![w] = Publication("follow", bel[w].sent, bel[w].h, <<>>)]
    /\ pc' = [pc EXCEPT ![w] = "job"]
    /\ NoFault /\ UNCHANGED <<pgVars, kafkaVars, cur, prod, read, bel, wentOn>>

(* ... K is read back ... *)
ReadBack(w) ==
    /\ pc[w] = "run" /\ bel[w].p < bel[w].sent /\ Stable
    /\ read' = [read EXCEPT ![w].k = k]
    /\ pc' = [pc EXCEPT ![w] = "raise"]
    /\ NoFault /\ UNCHANGED <<pgVars, kafkaVars, cur, prod, bel, job, wentOn>>

Pruned(box, p, h) == {r \in box : r.next > IF PruneByP THEN p ELSE h}

(* ... and P is raised to it, if the row still is as the worker knows it.  If it is not, the worker
   recovers. *)
RaiseP(w) ==
    LET r == read[w].k
        ours == /\ db.token = bel[w].token /\ Listed(r.token)
                /\ db.p <= r.at /\ r.at <= db.h /\ (TokenEnds => ~BeyondEnd(r))
    IN
    /\ pc[w] = "raise" /\ pg = NoPg
    /\ db' = IF ~ours THEN db
             ELSE [db EXCEPT !.p = r.at,
                             !.old = IF r.token = db.token THEN {} ELSE @,
                             !.box = Pruned(@, r.at, db.h)]
    /\ IF ~ours
       THEN Doubt(w)
       ELSE /\ bel' = [bel EXCEPT ![w].p = bel[w].sent]
            /\ pc' = [pc EXCEPT ![w] = "run"]
            /\ read' = [read EXCEPT ![w] = NoRead]
            /\ UNCHANGED job
    /\ NoFault /\ UNCHANGED <<pg, backup, restored, issued, kafkaVars, cur, prod, wentOn>>

(* Every few seconds, whether there is a message or not: the row is as the worker left it, or the
   worker recovers. *)
Watch(w) ==
    /\ WatchRow /\ pc[w] = "run"
    /\ [h |-> db.h, p |-> db.p, token |-> db.token]
         # [h |-> bel[w].h, p |-> bel[w].p, token |-> bel[w].token]
    /\ Doubt(w)
    /\ NoFault /\ UNCHANGED <<pgVars, kafkaVars, cur, prod, wentOn>>

-----------------------------------------------------------------------------
(* Recovery: recoverer.py carries it out, recovery.py decides. *)

(* 1. A new producer epoch: what the old one left open is aborted, what is late is refused.
   A worker whose assignment is out of date may recover too; each time counts as a fault. *)
Initialise(w) ==
    /\ pc[w] = "init"
    /\ IF RetireAfterDoubt \/ prod[w] # "ok"
       THEN /\ late' = {r \in late : r.w # w}
            /\ IF cur[w] THEN NoFault ELSE Fault("zombie")
       ELSE \* the mutant aborts and goes on with the same producer
            \/ UNCHANGED late /\ (IF cur[w] THEN NoFault ELSE Fault("zombie"))
            \/ txn[w].st = "open" /\ Fault("resend") /\ LateEnd(w, "abort")
    /\ txn' = [txn EXCEPT ![w] = IF @.st = "open" THEN [NoTxn EXCEPT !.st = "aborted"]
                                 ELSE IF RetireAfterDoubt THEN NoTxn ELSE @]
    /\ prod' = [prod EXCEPT ![w] = "ok"]
    /\ pc' = [pc EXCEPT ![w] = "readK"]
    /\ UNCHANGED <<pgVars, k, out, owner, cur, read, bel, job, wentOn>>

(* 2. K with its token, stable.  (The mutant without LockBeforeOutbox reads the outbox here.) *)
ReadK(w) ==
    /\ pc[w] = "readK" /\ Stable
    /\ read' = [read EXCEPT ![w].k = k, ![w].box = IF LockBeforeOutbox THEN {} ELSE db.box]
    /\ pc' = [pc EXCEPT ![w] = "lock"]
    /\ NoFault /\ UNCHANGED <<pgVars, kafkaVars, cur, prod, bel, job, wentOn>>

(* 3. The row under its lock, then the outbox; decide; renew the token; commit. *)
Renewed(K) ==
    IF ~RenewToken THEN db
    ELSE [db EXCEPT !.token = issued + 1,
                    !.old = IF ~KeepTokens THEN {}
                            ELSE (IF K.token = db.token THEN {} ELSE @)
                                 \cup {[token |-> db.token, end |-> db.h]}]

(* K is read before the lock is had, so a reading may be torn.  Nothing halts on one alone. *)
Halt(w, why) ==
    LET finding == <<why, read[w].k.at, db.h, db.p>> IN
    /\ IF SecondReading /\ read[w].suspects # finding
       THEN /\ read' = [read EXCEPT ![w] = [NoRead EXCEPT !.suspects = finding]]
            /\ pc' = [pc EXCEPT ![w] = "readK"]
            /\ UNCHANGED <<job, bel>>
       ELSE Forget(w, why)
    /\ UNCHANGED <<db, issued, wentOn>>

GoOn(w, K, box) ==
    LET row == Renewed(K)
        resume == K.at >= row.h
    IN
    /\ issued' = IF RenewToken THEN issued + 1 ELSE issued
    /\ wentOn' = (wentOn \/ (restored /\ Torn /\ K = k))
    /\ read' = [read EXCEPT ![w] = NoRead]
    /\ IF resume
       THEN /\ db' = [row EXCEPT !.p = row.h, !.box = Pruned(@, row.h, row.h)]
            /\ bel' = [bel EXCEPT ![w] =
                        [h |-> row.h, token |-> row.token, sent |-> row.h, p |-> row.h]]
            /\ pc' = [pc EXCEPT ![w] = "run"]
            /\ UNCHANGED job
       ELSE /\ db' = row
            /\ bel' = [bel EXCEPT ![w] =
                        [h |-> row.h, token |-> row.token, sent |-> K.at, p |-> row.p]]
            /\ pc' = [pc EXCEPT ![w] = "job"]
            /\ job' = [job EXCEPT ![w] = Publication("republish", K.at, row.h, Payload(box, K.at))]

Decide(w) ==
    LET K == read[w].k
        box == IF LockBeforeOutbox THEN db.box ELSE read[w].box
    IN
    /\ pc[w] = "lock" /\ pg = NoPg
    /\ IF K.at < db.p THEN
            Halt(w, "offsets-rewound")
       ELSE IF \/ KnownToken /\ ~Listed(K.token)
               \/ HaltOnRollback /\ K.at > db.h
               \/ TokenEnds /\ BeyondEnd(K)
       THEN
            Halt(w, "database-history-lost")
       ELSE IF K.at < db.h /\ ~Tiles(box, K.at, db.h) THEN
            Halt(w, "outbox-damaged")
       ELSE GoOn(w, K, box)
    /\ NoFault /\ UNCHANGED <<pg, backup, restored, kafkaVars, cur, prod>>

-----------------------------------------------------------------------------
(* What the world does *)

Crash(w) ==
    /\ pc[w] # "down" /\ Fault("crash")
    /\ Forget(w, "down")
    /\ prod' = [prod EXCEPT ![w] = "none"]
    /\ cur' = [cur EXCEPT ![w] = FALSE]
    /\ UNCHANGED <<pgVars, kafkaVars, wentOn>>

(* A restarted worker has the same names: the group gives it back what it had. *)
Start(w) ==
    /\ pc[w] = "down"
    /\ cur' = [cur EXCEPT ![w] = TRUE]
    /\ pc' = [pc EXCEPT ![w] = IF owner = w THEN "init" ELSE "idle"]
    /\ NoFault /\ UNCHANGED <<pgVars, kafkaVars, prod, read, bel, job, wentOn>>

(* A new generation.  Workers learn of it later: each at its own time, in Assigned. *)
Rebalance ==
    /\ Fault("rebalance")
    /\ owner' \in Workers
    /\ cur' = [w \in Workers |-> FALSE]
    /\ late' = {r \in late : r.kind # "offsets"}
    /\ UNCHANGED <<pgVars, k, out, txn, prod, pc, read, bel, job, wentOn>>

(* The assignment callback: a new snapshot, and what was in hand is dropped. *)
Assigned(w) ==
    /\ pc[w] # "down" /\ ~cur[w]
    /\ cur' = [cur EXCEPT ![w] = TRUE]
    /\ IF ~DropOnAssignment /\ pc[w] = "job"
       THEN UNCHANGED <<pc, job, bel, read>>
       ELSE Forget(w, IF owner = w THEN "init" ELSE "idle")
    /\ NoFault /\ UNCHANGED <<pgVars, kafkaVars, prod, wentOn>>

Backup ==
    /\ "restore" \in Faults /\ faults > 0 /\ ~restored
    /\ backup.token = 1 /\ backup.h = 0 /\ backup # db
    /\ backup' = db
    /\ NoFault /\ UNCHANGED <<db, pg, restored, issued, kafkaVars, ownVars, wentOn>>

(* The database is put back to an older state, or put back again; connections are lost. *)
Restore ==
    /\ db # backup /\ Fault("restore")
    /\ db' = backup /\ restored' = TRUE /\ pg' = NoPg
    /\ IF pg # NoPg /\ job[pg.by].db = "sent"
       THEN Doubt(pg.by)
       ELSE UNCHANGED <<pc, job, bel, read>>
    /\ UNCHANGED <<backup, issued, kafkaVars, cur, prod, wentOn>>

-----------------------------------------------------------------------------
Step(w) ==
    \/ Begin(w) \/ Store(w) \/ CommitKnown(w) \/ CommitUnknown(w)
    \/ Produce(w) \/ SendOffsets(w) \/ PlainOffset(w) \/ EndTxn(w) \/ Finish(w)
    \/ Follow(w) \/ ReadBack(w) \/ RaiseP(w) \/ Watch(w)
    \/ Initialise(w) \/ ReadK(w) \/ Decide(w)
    \/ Start(w) \/ Assigned(w)

Next ==
    \/ \E w \in Workers : Step(w) \/ Expire(w) \/ Crash(w)
    \/ ArriveLate
    \/ Land \/ Vanish
    \/ Rebalance \/ Backup \/ Restore

(* What can go on goes on at last; faults need not happen, and end.  An open transaction that
   nobody ends expires.  Late requests may stay away for ever. *)
Fairness ==
    /\ \A w \in Workers : WF_vars(Step(w)) /\ WF_vars(Expire(w))
    /\ WF_vars(Land \/ Vanish)

Spec == Init /\ [][Next]_vars /\ Fairness

-----------------------------------------------------------------------------
(* What is claimed *)

Ascending(s) == \A i, j \in DOMAIN s : i < j => s[i].at < s[j].at

(* Postgres: each message once, in order, and none left out below H. *)
EffectsExact == Len(db.eff) = db.h /\ \A i \in DOMAIN db.eff : db.eff[i].at = i - 1

(* Kafka: no output twice, none out of order ... *)
OutputsOnceInOrder == Ascending(out)

(* ... and none missing below K. *)
OutputsComplete ==
    \A o \in 0 .. k.at - 1 : o \in Silent \/ \E i \in DOMAIN out : out[i].at = o

(* What is visible is what Postgres holds, to the byte: of the same run of the handlers. *)
OutputsMatch == restored \/ ~Torn

Chain == restored \/ (db.p <= k.at /\ k.at <= db.h)

OutboxTiles == restored \/ Tiles(db.box, k.at, db.h)

(* A restore that the two stores disagree after is never gone on from by whoever has read the K
   that stands.  (A worker that read K before it last moved has lost the partition meanwhile; its
   offsets are refused.  What it does in the restored database counts when the next one goes on
   from it: without TokenEnds.) *)
NeverGoesOn == ~wentOn

(* Nor can it be: while the stores tell different stories, K does not fit the row. *)
LossShows == Torn => ~Listed(k.token) \/ k.at > db.h \/ BeyondEnd(k)

(* A halt has its cause, and its name. *)
HaltsForCause ==
    \A w \in Workers :
        /\ pc[w] \notin {"offsets-rewound", "outbox-damaged"}
        /\ pc[w] = "database-history-lost" => restored

(* When the faults have ended, P, K and H come to rest at the end, and the stores agree; unless a
   restore has stopped the owner. *)
AtRest == db.p = N /\ k.at = N /\ db.h = N /\ ~Torn
Halted == restored /\ pc[owner] = "database-history-lost"

ComesToRest == <>[](AtRest \/ Halted)
=============================================================================
