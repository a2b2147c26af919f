"""The mailboxes of three nodes against the plain model of their rules, in fewer examples than on one server."""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from app.redis import Store
from app.scripts import Arg
from tests.app import test_mailbox_rules as one_server


class Twice(Store):
    """Throws the answer of a script away when it is told to, and runs it again: what a lost answer leads to."""

    cuts = 0
    _armed = False

    def cut_next(self) -> None:
        self._armed = True

    def run(self, name: str, keys: Sequence[str], args: Sequence[Arg], *, patient: bool = True) -> Any:
        if self._armed:
            self._armed = False
            self.cuts += 1
            super().run(name, keys, args, patient=patient)
        return super().run(name, keys, args, patient=patient)


class Rules(one_server.Rules):
    """The same rules; the answers are lost behind the cluster's client."""


def test_the_mailbox_follows_its_rules(valkey_url: str, store: Store) -> None:
    """Each step goes to the node of its shard, whatever went before it elsewhere."""
    with closing(Twice(valkey_url, deadline_s=10.0)) as behind:
        Rules.record, Rules.behind, Rules.proxy = store, behind, behind
        run_state_machine_as_test(Rules, settings=settings(one_server.SETTINGS, max_examples=12))

    assert behind.cuts > 0
