"""The signed records, from which every node computes everything else.

Decides: which record replaces which, what spreads to whom, what is forgotten.
Does not know: what a record of any kind means.
Invariants: an owner speaks for itself alone; nothing acknowledged is lost, nothing deleted comes
    back.
Source: docs/internals/records.md.
"""

from pollen.core.records.gossip import Gossip
from pollen.core.records.intake import Intake
from pollen.core.records.ledger import Records
from pollen.core.records.record import ZERO, Change, Interned, Record, as_buried, decode_record
from pollen.core.records.retention import Retention
from pollen.core.records.versions import read_lease

__all__ = [
    "ZERO",
    "Change",
    "Gossip",
    "Intake",
    "Interned",
    "Record",
    "Records",
    "Retention",
    "as_buried",
    "decode_record",
    "read_lease",
]
