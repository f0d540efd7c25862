"""Bugs that the simulation has to find: each is put into a copy of batchgen, whose lives are then played.

    python tests/support/lives_mutants.py [WORD] [--lives 20000] [--workers N]

Group A takes away the protections of issue 10 again, by its numbers. These are below the port that the simulation
replaces, or outside of what a life plays; the tests named hold them:

- 3, a list in another order or with gaps; 1, a control that is too new: unit/test_recovery.py
- 4, an account that learns to look up: e2e/test_lying_gateways.py
- 7, stale connections; 14, a stopped process; 29, keep-alive; 33, bombs: unit/test_connections.py
- 13, the summary after a second signal; 25, exit codes: cli/test_exit_codes.py, e2e/test_signals.py
- 15, a ledger that refuses otherwise, and the rescue: unit/test_disk_full.py, unit/test_ledger_refuses.py
- 16, other pixels; 23, another disk: e2e/test_lost_files.py; an output that is moved: e2e/test_output_moved.py
- 17, odd images: unit/test_images.py, e2e/test_odd_images.py
- 20, what audit counts: cli/test_audit_counts.py; 21, what the commands agree on: e2e/test_output_states.py
- 22, prices that have changed: e2e/test_budget_resumed.py
- 26, logs and deadlines: cli/test_command_line.py, unit/test_deadline.py; verify: cli/test_beside_a_run.py
- 28, LiteLLM's own words: contract/test_provider_answers.py, e2e/test_whose_refusal.py
- 30, proxies: e2e/test_proxies.py; 32, keys in malformed HTTP: cli/test_redaction.py
- 34, terminal, callbacks and other people's folders: unit/test_terminal.py, unit/test_callback_server.py,
  unit/test_network_policy.py, e2e/test_foreign_output.py
- a commit that the disk itself loses, and ledgers of older versions: e2e/test_power_loss.py, e2e/test_old_ledgers.py

Group B are other bugs of the kinds that hurt. Ends with 1 where fewer than nine in ten are found, where a text no
longer occurs exactly once, or where the simulation itself breaks.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PARTS = ["batchgen", "schemas", "tests/simulation"]


class Mutant(NamedTuple):
    """In `batchgen/<file>`, the only `old` becomes `new`."""

    file: str
    old: str
    new: str


MUTANTS = [
    # --- A: the numbers of issue 10 ---------------------------------------------------------------------------
    # 1: "not found" is believed though the control is not found either.
    Mutant("engine/recovery.py",
           "if controls and all([await self._is_found(control, runs=runs) for control, runs in controls]):",
           "if controls:"),
    # 1: "not found" is believed where there is no control.
    Mutant("engine/recovery.py", "if controls and all([", "if all(["),
    # 2: a proxy's page with 404 is the gateway's word.
    Mutant("providers/responses.py", "return NoSuchPath if answer.status in {404, 405} else",
           "return TaskNotFound if answer.status in {404, 405} else"),
    # 3: the gateway's clock is taken to be ours.
    Mutant("engine/controls.py", "skew = task.created_ms - control.accepted_at", "skew = 0"),
    # 3: a list that alters ids is believed.
    Mutant("engine/controls.py", "(self._alters_ids, ", "(False, "),
    # 3: a list without ids is believed.
    Mutant("engine/controls.py", "any(map(self._may_match, self._without_id)),", "False,"),
    # 3: a list that leaves out running tasks is believed.
    Mutant("engine/controls.py", "if each.accepted_at >= sent_at or each.task_id in self._running]", "if False]"),
    # 4: what was sent under another key is looked for under this one.
    Mutant("engine/submit.py", "return attempt.id_sent and attempt.key_print == self.key_print",
           "return attempt.id_sent"),
    # 5: two questions within seconds decide.
    Mutant("engine/recovery.py", "in (first, delay - first) if delay > 2.0 * first else (max(first, delay),):",
           "in (first,):"),
    # 6: a refusal is believed, though it may be that of a second copy.
    Mutant("engine/submit.py", "if isinstance(refusal, NotSent | PageReceived) or not (", "if True or not ("),
    # 6: a refusal is believed where the account does not answer the question about it.
    Mutant("engine/recovery.py", "        except NotAnswered:\n            raise\n        except (TaskNotFound,",
           "        except (TaskNotFound,"),
    # 7: questions may be answered by a cache.
    Mutant("http/client.py", '_NEVER_FROM_A_CACHE = {"Cache-Control": "no-cache", "Pragma": "no-cache"}',
           "_NEVER_FROM_A_CACHE = {}"),
    # 7: the answer to another create is taken for this one's.
    Mutant("engine/submit.py", "if not task.may_be(attempt.id_to_echo) or self", "if False and self"),
    # 8: every job of a run with --retry-failed is made anew.
    Mutant("app/run_accounts.py", "remake=attempt.job.id in self._remake)",
           "remake=bool(self._remake))"),
    # 9: what is gone is never asked for again.
    Mutant("app/workload.py", "self._selected(ledger, RECHECKED | {Status.UNKNOWN})",
           "self._selected(ledger, frozenset({Status.UNKNOWN}))"),
    # 9: seconds of 403 from the images' host make an image gone.
    Mutant("engine/download.py", "return since is None or now - since < _REFUSED_MS", "return False"),
    # 10: a list with fewer links than images is believed.
    Mutant("engine/poller.py", "if running.is_short(task):  # a list may say less than the task itself", "if False:"),
    # 11: a refusal uses up an attempt.
    Mutant("engine/outcomes.py", "if counts and not one_more and self.is_last(attempt):",
           "if not one_more and self.is_last(attempt):"),
    # 11: a task that policy refused is created again.
    Mutant("engine/runner.py", "if task.state is TaskState.REJECTED:", "if False:"),
    # 12: an outage is not noticed, and uses up attempts.
    Mutant("engine/outage.py", "self.is_on = len(self._troubled) >= enough and not is_one_jobs", "self.is_on = False"),
    # 12: an outage is waited for without end.
    Mutant("engine/outage.py", "if self._clock() - self._since >= self._give_up_after:", "if False:"),
    # 13: creates that nobody can be asked about are cancelled when the run is to end.
    Mutant("engine/scheduler.py", "if external_id not in uncancellable:", "if True:"),
    # 13: a closed terminal kills the run.
    Mutant("engine/shutdown.py", ', signal.SIGHUP: "The terminal was closed"}', "}"),
    # 15: answers are not written with the space that was reserved for them.
    Mutant("ledger/writer.py", "if begins or self._reserve is None or not self._reserve.release():", "if True:"),
    # 16: a lost image's hash is forgotten, so that its file is not known when it returns.
    Mutant("ledger/transitions.py", "lost_sha256 = coalesce(lost_sha256, sha256)", "lost_sha256 = NULL"),
    # 16: an empty images/ counts as lost files, though a drive may not be mounted.
    Mutant("reconcile/reconcile.py", "== enough and not _has_entries(folder):", "== enough and False:"),
    # 18: a new link is taken for any image of its task.
    Mutant("engine/download.py", "if (new.index, is_watermarked) == (link.index, watermarked) and new", "if new"),
    # 18: a gateway counts from 0, whatever it says.
    Mutant("providers/base.py", "return int(0 not in indices and n in indices)", "return 0"),
    # 18: an answer about another task is believed.
    Mutant("providers/validated.py", "if not task.may_be(external_id):", "if False:"),
    # 18: a look-up that is answered with another task is believed.
    Mutant("engine/recovery.py", "if not task.may_be(attempt.external_id) or self._controls",
           "if False and self._controls"),
    # 19: an index that knows more than the ledger is no reason to stop.
    Mutant("reconcile/unrecorded.py", "if (first := next(unknown, None)) is not None:",
           "if (first := None) is not None:"),
    # 19: a file at the name of an image to be made is no reason to stop.
    Mutant("app/run_session.py", "        if ledger.anything_to_do() or retry_failed:\n            jobs",
           "        if False:\n            jobs"),
    # 20: audit --adopt breaks where a failed job has a later task.
    Mutant("ledger/adoption.py", "if latest is not None and latest.status in _REOPENED else []", "if False else []"),
    # 22: attempts in flight count nothing when a run goes on.
    Mutant("ledger/reader.py", "FROM attempt WHERE outcome IN ('', 'made'", "FROM attempt WHERE outcome IN ('made'"),
    # 23: a status that nobody knows is a failure.
    Mutant("providers/kling_responses.py", "_STATES.get(status, TaskState.RUNNING)",
           "_STATES.get(status, TaskState.FAILED)"),
    # 24: what a sandbox painted counts for a real account.
    Mutant("app/run_session.py", "reconcile.drop_rehearsals(ledger, self._tree, self._manifest.pool.base_urls)",
           "0, 0"),
    # 26: the refund of an earlier run's attempt counts for this run.
    Mutant("budget.py", "        if earlier:", "        if False:"),
    # 27: a proxy's "not sent" is an unclear answer.
    Mutant("providers/responses.py", "elif (proxy := answering_proxy(answer)) is not None:",
           "elif (proxy := None) is not None:"),
    # 27: creates go on being lost at an account that cannot be asked.
    Mutant("engine/outage.py", "if not self._can_ask and self._lost >= _TRIES_IN_DOUBT:", "if False:"),
    # 28: a refusal that every job meets fails them all.
    Mutant("engine/refusals.py", "if len(alike) < MAX_ALIKE:", "if len(alike) < 1000 * MAX_ALIKE:"),
    # 31: a firewall's page about one prompt stops the account.
    Mutant("providers/responses.py", "return PageReceived, more", "return AccountStopped, more"),
    # 32: what a gateway answered is kept with the keys in it.
    Mutant("ledger/events.py", '_TEXTS = ("code", "message", "head")', '_TEXTS = ("code", "message")'),
    # --- B: other bugs ----------------------------------------------------------------------------------------
    # An image is moved to its place without a sync.
    Mutant("storage/tree.py", "            os.fsync(file.fileno())\n", ""),
    # The create is sent before its intent is on disk.
    Mutant("engine/submit.py", "await self._record_intent(attempt)",
           '__import__("asyncio").ensure_future(self._record_intent(attempt))'),
    # Changes are acknowledged before they are committed.
    Mutant("ledger/writer.py", "                await self._write(batch)",
           "                self._group.create_task(self._write(batch))"),
    # A task and the images of the same answer are recorded one after the other.
    Mutant("engine/submit.py", "await self._outcomes.made(attempt, task, accepted)",
           "await self._context.record(accepted)\n            await self._outcomes.made(attempt, task)"),
    # The slots of a task are free as soon as it is accepted.
    Mutant("engine/submit.py", "        self._limits.accepted(permit)\n",
           "        self._limits.accepted(permit)\n        permit.release()\n"),
    # Each task counts as one unit, however many images it makes.
    Mutant("engine/limits.py", "return SlotPermit(self, units, self._rate.sent())",
           "return SlotPermit(self, 1, self._rate.sent())"),
    # What an earlier run began holds no slots.
    Mutant("engine/limits.py", "return SlotPermit(self, units, -math.inf)", "return SlotPermit(self, 0, -math.inf)"),
    # The manifest's rate is not kept.
    Mutant("engine/scheduler.py", "if self._quota is None:", "if True:"),
    # Minutes are taken for seconds in the manifest's rate.
    Mutant("engine/limits.py", "return AsyncLimiter(1, 60.0 / creates_per_minute)",
           "return AsyncLimiter(1, 1.0 / creates_per_minute)"),
    # What made nothing is refunded twice.
    Mutant("engine/outcomes.py", "        if attempt.wanted:\n            self._next(attempt, counts",
           "        self._refund(attempt, outcome)\n        if attempt.wanted:\n"
           "            self._next(attempt, counts"),
    # What is in flight is not counted against the budget.
    Mutant("budget.py", "        self.images += images\n        self._change(price or 0, model)\n", ""),
    # Every attempt of a job has the same id.
    Mutant("engine/attempt.py", "external_id=external_id(job.id, number)", "external_id=external_id(job.id, 1)"),
    # All attempts of a job count as made when one is.
    Mutant("ledger/transitions.py", "ended_at = ? WHERE job_id = ? AND number = ?",
           "ended_at = ? WHERE job_id = ? AND number <= ?"),
    # An intent that the disk refused is taken as written.
    Mutant("ledger/writer.py", "        entry.failure = self._refused\n", "        entry.failure = None\n"),
    # A broken image is kept.
    Mutant("storage/images.py", 'raise ImageBroken(f"The {kind.label} image is broken: {error}.") from None',
           '(width, height), warning = (1, 1), ""'),
    # A job is done with its first image.
    Mutant("ledger/transitions.py", "    if missing:\n        return\n", ""),
    # What a crash left between record and place is not moved.
    Mutant("app/run_session.py", "        reconcile.finish_moves(ledger, tree)\n        is_new", "        is_new"),
    # Lost files are not looked for.
    Mutant("app/run_session.py", "reconcile.record_missing(ledger, tree, refetch=refetch)", "pass"),
    # A file that has returned is not looked for.
    Mutant("app/run_session.py", "if reconcile.record_returned(ledger, tree) or is_new:", "if is_new:"),
    # An attempt at a sandbox is not marked as a rehearsal.
    Mutant("engine/submit.py", "rehearsal=context.is_local(self._provider.account.name),", "rehearsal=False,"),
    # An unknown attempt is sent again unasked.
    Mutant("engine/submit.py", "is_resent = policy.resend_unknown and not", "is_resent = not"),
    # The feeder is not woken by the end of an attempt.
    Mutant("engine/scheduler.py", "        del self._running[task]\n        self._wake.set()\n",
           "        del self._running[task]\n"),
    # The poller is not woken by a task that has become due.
    Mutant("engine/poller.py", "+ running.wait\n        self._changed.set()", "+ running.wait"),
    # A job gets one attempt more than run.max_attempts.
    Mutant("engine/outcomes.py", "attempt.failures + 1 >= self", "attempt.failures + 1 > self"),
    # Jobs that ended without images do not change the exit code.
    Mutant("app/run_result.py", "return 1 if self.incomplete or self.unfinished", "return 1 if self.unfinished"),
    # The index has only the first image of each job.
    Mutant("ledger/reader.py", "WHERE image.sha256 IS NOT NULL AND image.marked = 0 AND image",
           "WHERE image.sha256 IS NOT NULL AND idx = 0 AND image.marked = 0 AND image"),
    # The index is not written anew after a change.
    Mutant("ledger/store.py", "(VIEWS_STAMP, FOLDER_TIMES, TOTALS))\n\n    def commit",
           "(FOLDER_TIMES, FOLDER_TIMES, TOTALS))\n\n    def commit"),
    # The totals of an earlier run are kept after a change.
    Mutant("ledger/store.py", "(VIEWS_STAMP, FOLDER_TIMES, TOTALS))\n\n    def commit",
           "(VIEWS_STAMP, FOLDER_TIMES, FOLDER_TIMES))\n\n    def commit"),
    # All images of a job are renamed to the name of the first.
    Mutant("reconcile/reconcile.py", "path = template.render(job, image.index,", "path = template.render(job, 0,"),
    # Files that move are not durable in the scratch folder when the ledger says where they go.
    Mutant("reconcile/reconcile.py", "    if moving:  # else", "    if False:  # else"),
    # A task that is called failed once has failed.
    Mutant("engine/running.py", "return now - self.failed_at < CONFIRM_FAILURE_SECONDS", "return False"),
    # --limit lets one job more begin.
    Mutant("app/workload.py", "started >= self._limit:", "started > self._limit:"),
    # --max-cost counts from the output's first run.
    Mutant("budget.py", "return self.cost - self._cost_before", "return 0"),
    # Keys are not removed from anything.
    Mutant("providers/base.py", "        redact.add(self.values.values())", "        return"),
    # --- C: what the simulation itself has found --------------------------------------------------------------
    # A job that has no attempt left is not sent again, though the user asks for it.
    Mutant("engine/submit.py", "is_asked_for = policy.retry_unknown and attempt.earlier", "is_asked_for = False"),
    # A turn of the quota that has waited for a slot is one more in its minute.
    Mutant("engine/scheduler.py", "_TURN_SECONDS = 1.0", "_TURN_SECONDS = 1e9"),
    # A run whose budget is used up waits for ever.
    Mutant("engine/scheduler.py", "may_go_on = not self._waiting.is_out_of_funds and bool(self._waiting)",
           "may_go_on = bool(self._waiting)"),
    # The answer to a second request that was not sent replaces the first one.
    Mutant("providers/kling.py", "with suppress(NotSent):", "with suppress(ZeroDivisionError):"),
    # A control that has ended meanwhile is believed.
    Mutant("engine/recovery.py", "is_as_known = task.state is TaskState.RUNNING or not runs", "is_as_known = True"),
    # A list is not asked where a look-up says nothing about a refused create.
    Mutant("engine/recovery.py", "                    pass  # the list may know", "                    return None"),
    # Times of a run are those of a clock that is set.
    Mutant("clocks.py", "    return lambda: began + since_boot()", "    return time.time"),
    # Painted files stay where they are when the ledger forgets them.
    Mutant("storage/tree.py", "            self.scratch.mkdir(exist_ok=True)  # else", "            # else"),
    # After a rehearsal and a crash the index has rows that nobody knows.
    Mutant("reconcile/reconcile.py", "        (tree.root / INDEX).unlink(missing_ok=True)", "        pass"),
    # Painted rows are adopted as paid for.
    Mutant("ledger/adoption.py", "rehearsal=not delivery.base_url,", "rehearsal=False,"),
    # Another task is adopted than the one that was asked for.
    Mutant("app/gateway_query.py", "if task.may_be(payment.external_id):", "if True:"),
    # A file of a job whose create was lost says nothing of the ledger.
    Mutant("reconcile/unrecorded.py", "frozenset({Status.PENDING, Status.INTENT, Status.UNKNOWN})",
           "frozenset({Status.PENDING})"),
    # What is decided while another refusal is recorded is forgotten.
    Mutant("engine/scheduler.py", "while decided := self._outcomes", "if decided := self._outcomes"),
    # The clock of an earlier run tells the times of this one.
    Mutant("engine/controls.py", "if not is_of_this_run or each.task_id in self._of_this_run}", "}"),
    # An image that nobody has any more is waited for.
    Mutant("engine/runner.py", "        is_elsewhere = not (attempt.remake or is_certain) and",
           "        is_elsewhere = not attempt.remake and"),
]  # fmt: skip


def outcome(mutant: Mutant, lives: int, seconds: float) -> str:
    """After how many lives it is found, and by which violation; else why not."""
    text = (ROOT / "batchgen" / mutant.file).read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        return f"STALE: the text to change is there {text.count(mutant.old)} times"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in PARTS:
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "batchgen" / mutant.file).write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        return _played(folder, lives, seconds)


def _played(folder: Path, lives: int, seconds: float) -> str:
    command = [sys.executable, "-m", "tests.simulation", "--lives", str(lives), "--first-failure"]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    with (
        (folder / "errors").open("w+") as errors,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            for line in process.stdout:
                if line.startswith("seed "):  # what follows is how it shrinks
                    return f"found after {int(line[5:].partition(':')[0]):,}: {line.partition(': ')[2].strip()[:110]}"
                if " lives in " in line:
                    return f"NOT FOUND in {line.partition(' in ')[0]}"
        finally:
            timer.cancel()
            process.kill()
        if process.wait() == -9:
            return f"NOT FOUND within {seconds:,.0f} s"
        errors.seek(0)
        return f"ERROR: {errors.read().strip().rpartition(chr(10))[2] or 'no output'}"


def main() -> int:
    """Play the lives of the mutants and print which are found."""
    parser = argparse.ArgumentParser(prog="python tests/support/lives_mutants.py", description="Bugs to be found.")
    parser.add_argument("word", nargs="?", default="", help="only those whose file or texts contain it")
    parser.add_argument("--lives", type=int, default=20_000, help="of each")
    parser.add_argument("--workers", type=int, default=1, help="mutants at a time")
    parser.add_argument("--seconds", type=float, default=900.0, help="for each")
    arguments = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if any(arguments.word in text for text in mutant)]
    began, results = time.perf_counter(), []

    def tried(mutant: Mutant) -> tuple[Mutant, str]:
        return mutant, outcome(mutant, arguments.lives, arguments.seconds)

    with ThreadPool(arguments.workers) as pool:
        for mutant, result in pool.imap(tried, chosen):
            results.append(result)
            print(
                f"{mutant.file}: {mutant.old.strip()[:70]!r} -> {mutant.new.strip()[:50]!r}\n    {result}", flush=True
            )
    found = sum(result.startswith("found") for result in results)
    print(f"{found} of {len(chosen)} are found, in {time.perf_counter() - began:,.0f} s.")
    return int(10 * found < 9 * len(chosen) or any(result.startswith(("STALE", "ERROR")) for result in results))


if __name__ == "__main__":
    sys.exit(main())
