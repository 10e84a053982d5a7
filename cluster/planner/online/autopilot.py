"""Observations in, questions to the simulator and decisions out: one class in production, in replays and in tests.

A state machine without I/O: `look` says what to simulate, `decide` what follows from it. One change at a time; each is
on probation until it has shown that it is no worse than what the fleet was before would be under the same load. Nothing
is changed while fleet or load do not match what is simulated (`trust`), while workers come and go, or soon after a
change, one by hand included.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cluster.config.schema import PlannerConfig
from cluster.contracts.slo import SLO
from cluster.planner.online.asking import MIN_REQUESTS, Asking
from cluster.planner.online.calibration import Calibration
from cluster.planner.online.candidates import Bounds
from cluster.planner.online.choice import Choice, choose
from cluster.planner.online.decision import AutopilotStatus, Decision, DecisionKind, DecisionState
from cluster.planner.online.journal import Journal
from cluster.planner.online.judge import Answer, Question
from cluster.planner.online.observation import Observation
from cluster.planner.online.setup import Change
from cluster.planner.online.trial import Trial
from cluster.planner.online.trust import Trust, compare
from cluster.planner.online.twin import Twin

BAN = 5  # cooldowns for which a change that was rolled back is not made again, and the last one not taken back lightly
SETTLE_TIMEOUT_S = 600.0


class Phase(enum.StrEnum):
    LOOKING = "looking"
    CHANGING = "changing"  # until all workers are where they should be
    PROBATION = "on probation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`act`: what is to be done now; None: nothing."""

    decisions: tuple[Decision, ...] = ()
    act: Change | None = None


class Autopilot:
    """
    Args:
        bounds: What may be changed.
        twin: What is known of the fleet.
        started_s: When arrivals began to be seen.
        costs: Where the costs of steps come from, in words.
        by_hand: Changes by hand that were seen before.
        settle_timeout_s: A change that is not there after so long is undone: no node came for its worker.
    """

    def __init__(
        self,
        config: PlannerConfig,
        *,
        slo: SLO,
        bounds: Bounds,
        twin: Twin,
        calibration: Calibration,
        started_s: float,
        costs: str = "",
        seed: int = 0,
        journal: Journal | None = None,
        by_hand: int = 0,
        settle_timeout_s: float = SETTLE_TIMEOUT_S,
    ) -> None:
        self.config, self.slo, self.calibration = config, slo, calibration
        self.journal = journal or Journal()
        self.phase = Phase.LOOKING
        self._asking = Asking(
            config=config, slo=slo, bounds=bounds, twin=twin, calibration=calibration, started_s=started_s, seed=seed
        )
        self._costs = costs
        self._settle_timeout_s = settle_timeout_s
        self._trust = Trust(config.max_error)
        self._settled_s = self._may_change_s = started_s
        self._was_settled = True
        self._by_hand = by_hand
        self._trial: Trial | None = None
        self._last: tuple[Change, float] | None = None  # the last change, and when
        self._bans: dict[Change, float] = {}  # until when
        self._advised: Change | None = None
        self._seen: Observation | None = None
        self._waits_for = "the first look"
        self._measured: float | None = None
        self._now_s = started_s

    def set_ingresses(self, number: int) -> None:
        """Replicas that there are, each with limits of its own."""
        self._asking.twin = replace(self._asking.twin, num_ingresses=number)

    # Looking.

    def look(self, seen: Observation) -> Question | Verdict:
        """What must be simulated for `decide`; or what follows at once."""
        before_s, self._seen, self._now_s = self._now_s, seen, seen.now_s
        self._bans = {change: until_s for change, until_s in self._bans.items() if until_s > seen.now_s}
        self._asking.forecast(seen)
        self._measured = seen.attainment(self.slo, seen.now_s - self.config.window_s)
        by_hand = self._note_by_hand(seen)
        self._note_settling(seen)
        late = self._undo_late(seen)
        if late is not None:
            return Verdict(decisions=(*by_hand, *late.decisions), act=late.act)
        self.calibration.learn(seen.workers if seen.is_settled else (), seen.mean_context(before_s))
        self._waits_for = self._wait_reason(seen)
        if self._waits_for or by_hand:
            return Verdict(decisions=by_hand)
        return self._asking.question(
            seen,
            settled_s=self._settled_s,
            before=self._trial.before if self._trial is not None and self.phase is Phase.PROBATION else None,
            may_change=not self._why_not,
            is_bad=self._measured is not None and self._measured < self.slo.attainment,
            allowed=self._allowed,
        )

    def _note_by_hand(self, seen: Observation) -> tuple[Decision, ...]:
        if seen.by_hand == self._by_hand:
            return ()
        self._by_hand = seen.by_hand
        self.phase, self._trial, self._advised = Phase.LOOKING, None, None
        self._settled_s = seen.now_s
        self._may_change_s = seen.now_s + self.config.cooldown_s
        why = f"somebody changed something; the fleet is {seen.setup} now: that stands, and is looked at from here on"
        return (self._say(DecisionKind.BY_HAND, DecisionState.REFUSED, "nothing is changed for a while", why),)

    def _note_settling(self, seen: Observation) -> None:
        if seen.is_settled and not self._was_settled:
            self._settled_s = seen.now_s
            if self.phase is Phase.CHANGING:
                self.phase = Phase.PROBATION
                self._may_change_s = seen.now_s + self.config.cooldown_s
        self._was_settled = seen.is_settled

    def _undo_late(self, seen: Observation) -> Verdict | None:
        trial = self._trial
        if trial is None or self.phase is not Phase.CHANGING or seen.now_s - trial.begun_s < self._settle_timeout_s:
            return None
        return self._roll_back(trial, f"not all workers were there after {self._settle_timeout_s:.0f} s")

    def _wait_reason(self, seen: Observation) -> str:
        """Why nothing is asked now; empty: something is."""
        if not seen.is_settled:
            return "workers that come, go or change"
        return "" if self.calibration.is_ready else "steps to measure"

    def _allowed(self, changes: Sequence[Change]) -> list[Change]:
        return [change for change in changes if change not in self._bans]

    @property
    def _why_not(self) -> str:
        """Why nothing may be changed now; empty: it may."""
        if self.phase is not Phase.LOOKING:
            return str(self.phase)
        if self._now_s < self._may_change_s:
            return "cooling down"
        return "" if self._trust.is_given else "looking; the simulation is not trusted"

    # Deciding.

    def decide(self, answer: Answer) -> Verdict:
        """What follows of the last look, given what was simulated."""
        seen = self._seen
        assert seen is not None, "a decision without a look"
        told = self._judge_model(answer)
        trial = self._trial
        if trial is not None and self.phase is Phase.PROBATION:
            verdict = self._judge_trial(trial, answer, seen)
        elif self._why_not:
            verdict = Verdict()
        else:
            content, last = self._asking.content, self._recent_change()
            verdict = self._take(choose(answer, self.slo, content=content, measured=self._measured, last=last), seen)
        return Verdict(decisions=(*told, *verdict.decisions), act=verdict.act)

    def failed(self, change: Change, why: str, now_s: float) -> Decision:
        """The change could not be made; the fleet is as before."""
        self._now_s = now_s
        self.phase, self._trial = Phase.LOOKING, None
        self._bans[change] = now_s + BAN * self.config.cooldown_s
        self._may_change_s = now_s + self.config.cooldown_s
        return self._say(DecisionKind(change.kind.value), DecisionState.REFUSED, str(change), why)

    def _judge_model(self, answer: Answer) -> list[Decision]:
        found = compare(self._asking.past, answer.past, self.slo) if answer.past is not None else None
        if found is None:
            return []
        if max(found.ttft_s) < self.slo.ttft_s / 2:
            self.calibration.tell_extra(found.ttft_s[0] - found.ttft_s[1], self.slo.ttft_s)
        if not self._trust.note(found.error):
            return []
        why = f"the error is {found.error:.0%}, planner.max_error {self._trust.max_error:.0%}: {found}"
        if self._trust.is_given:
            return [self._say(DecisionKind.TRUST, DecisionState.KEPT, "changes may be made again", why)]
        self._advised = None
        what = "nothing is changed until simulation and reality agree"
        return [self._say(DecisionKind.TRUST, DecisionState.REFUSED, what, why)]

    def _judge_trial(self, trial: Trial, answer: Answer, seen: Observation) -> Verdict:
        now = seen.attainment(self.slo, self._settled_s)
        num_since = sum(one.arrived_s >= self._settled_s for one in seen.requests)
        if now is not None and num_since >= MIN_REQUESTS and trial.is_worse(now, num_since, answer, self.slo):
            return self._roll_back(trial, trial.complaint(now, answer), now)
        if seen.now_s < self._may_change_s:
            return Verdict()
        self.phase, self._trial = Phase.LOOKING, None
        foreseen = f"{trial.predicted:.0%} was foreseen"
        why = f"attainment {now:.0%} since, {foreseen}" if now is not None else f"no request since; {foreseen}"
        what, state = str(trial.change), DecisionState.KEPT
        return Verdict(decisions=(self._say(trial.kind, state, what, why, after=trial.predicted, measured=now),))

    def _recent_change(self) -> Change | None:
        """Which must not be taken back lightly."""
        if self._last is None or self._now_s - self._last[1] > BAN * self.config.cooldown_s:
            return None
        return self._last[0]

    def _take(self, choice: Choice | None, seen: Observation) -> Verdict:
        is_advice = self.config.mode != "act"
        if choice is None or (is_advice and choice.change == self._advised):
            self._advised = choice.change if choice is not None else None
            return Verdict()
        change = choice.change
        self._advised = change if is_advice else None
        told = self._say(
            DecisionKind(change.kind.value),
            DecisionState.ADVISED if is_advice else DecisionState.APPLIED,
            str(change),
            f"{self._load_in_words(seen)}; simulated attainment {choice.before:.1%} as it is, {choice.after:.1%} "
            f"then{choice.remark} (wanted: {self.slo.attainment:.0%})",
            before=choice.before,
            after=choice.after,
            measured=self._measured,
        )
        if is_advice:
            return Verdict(decisions=(told,))
        self._trial = Trial(
            change=change,
            before=seen.setup,
            begun_s=seen.now_s,
            predicted=choice.after,
            measured=self._measured,
        )
        self._last = (change, seen.now_s)
        self.phase, self._was_settled = Phase.CHANGING, False
        return Verdict(decisions=(told,), act=change)

    def _roll_back(self, trial: Trial, why: str, now: float | None = None) -> Verdict:
        """Afterwards the fleet is looked at as it was."""
        self.phase, self._trial, self._was_settled = Phase.LOOKING, None, False
        self._bans[trial.change] = self._now_s + BAN * self.config.cooldown_s
        self._may_change_s = self._now_s + self.config.cooldown_s
        what, state = str(trial.change), DecisionState.ROLLED_BACK
        told = self._say(trial.kind, state, what, why, after=trial.predicted, measured=now)
        return Verdict(decisions=(told,), act=trial.change.undone)

    # Telling.

    def _load_in_words(self, seen: Observation) -> str:
        whole = [one for one in seen.requests if one.is_whole]
        prompt = float(np.mean([one.num_prompt_tokens for one in whole])) if whole else 0.0
        output = float(np.mean([one.num_output_tokens for one in whole])) if whole else 0.0
        have = f", measured attainment {self._measured:.0%}" if self._measured is not None else ""
        return (
            f"{self._asking.expected:.2f} requests/s expected ({self._asking.rate:.2f} of late), prompts of "
            f"{prompt:.0f} and answers of {output:.0f} tokens on average, {seen.setup}{have}"
        )

    def _say(
        self,
        kind: DecisionKind,
        state: DecisionState,
        what: str,
        why: str,
        *,
        before: float | None = None,
        after: float | None = None,
        measured: float | None = None,
    ) -> Decision:
        shares = {"before": before, "after": after, "measured": measured}
        return self.journal.say(self._now_s, kind, state, what, why, **shares)

    @property
    def status(self) -> AutopilotStatus:
        doing = f"waiting for {self._waits_for}" if self._waits_for else self._why_not or str(self.phase)
        return AutopilotStatus(
            mode=self.config.mode,
            doing=doing,
            costs=self._costs,
            is_trusted=self._trust.is_given,
            error=self._trust.error,
            rate=self._asking.rate,
            expected_rate=self._asking.expected,
            attainment=self._measured,
            decisions=tuple(self.journal.decisions),
        )
