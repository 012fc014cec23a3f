"""Who is let in, how one becomes a member, and how membership is renewed.

Decides: the answer to a token, the verdict on a Hello, who signs which lease and when.
Does not know: what makes a document good (``trust``), placement, tables.
Invariants: a nonce is good once; whose membership ends is cut in the turn in which that is seen.
Source: docs/internals/trust.md.
"""

from pollen.core.admission.acts import Act
from pollen.core.admission.carrying import Carrying
from pollen.core.admission.consequences import Consequences
from pollen.core.admission.granting import Granting
from pollen.core.admission.invites import (
    Invite,
    JoinReply,
    JoinRequest,
    check_reply,
    open_token,
    token_bytes,
)
from pollen.core.admission.redeeming import NONCE_TABLE, Redeeming

__all__ = [
    "NONCE_TABLE",
    "Act",
    "Carrying",
    "Consequences",
    "Granting",
    "Invite",
    "JoinReply",
    "JoinRequest",
    "Redeeming",
    "check_reply",
    "open_token",
    "token_bytes",
]
