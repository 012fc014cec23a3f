"""What a user reads and asks: screens, explanations, news, what an admin has others do.

Decides: the words and figures of an answer.
Does not know: how anything comes to be; it reads the other rooms and changes none.
Invariants: nothing here publishes a record or moves a seed.
Source: docs/internals/control-api.md.
"""

from pollen.core.desk.admin import Admin
from pollen.core.desk.news import News
from pollen.core.desk.questions import Questions
from pollen.core.desk.roster import Roster
from pollen.core.desk.views import Screen
from pollen.core.desk.waits import Waits

__all__ = ["Admin", "News", "Questions", "Roster", "Screen", "Waits"]
