"""The rows of the dashboard about how a run progresses: overview, learning, checkpoints and faults."""

from __future__ import annotations

import promql
import source_log
from grafana import NO_THRESHOLD, Json, band, dashed, graph, stat
from promql import of_run


def overview() -> list[Json]:
    """Return the panels for a quick overview."""
    return [
        stat("Images per second", "Training images. Each rank counts its share of its replica's images, so the sum"
             " is the run's throughput. No threshold: it depends on net and machine.", "suffix: images/s",
             {"{{run}}": promql.IMAGES_PER_S}, NO_THRESHOLD),
        stat("Median step", "Median over the chosen ranks' steps. No threshold: it depends on net and machine.", "s",
             {"{{run}}": promql.step_quantile(0.5)}, NO_THRESHOLD),
        stat("Epoch", "Completed epochs, with part of the current one. No threshold: a run's length is its own.",
             "suffix: epochs", {"{{run}}": of_run("epoch")}, NO_THRESHOLD, decimals=2),
        stat("Validation error", "Top-1, at the last evaluation. No threshold: it depends on the set.", "percentunit",
             {"{{run}}": of_run("evaluation_top1_error")}, NO_THRESHOLD, decimals=2),
        stat("Ranks missing", "Ranks of the run that Prometheus does not see. Red from 1: the alert RankMissing fires"
             " after two minutes.", "suffix: ranks", {"{{run}}": f"{promql.WORLD_SIZE} - {promql.RANKS_UP}"},
             {1: "red"}),
        stat("Since the last step", "Longest time since a rank's last step. Yellow from 60 s: an evaluation or a save"
             " may take so long. Red from 900 s: the alert TrainingStalled fires if no rank has made a step since.",
             "s",
             {"{{run}}": f"max by (run) ({promql.SINCE_LAST_STEP})"}, {60: "yellow", 900: "red"}),
        stat("Waiting for data", "Fraction of the step time spent waiting for decoded images. Yellow from 5 %: the"
             " loader does not keep up at all times. Red from 20 %: the alert DataStarvation fires after ten minutes.",
             "percentunit", {"{{run}}": promql.phase_share("data_wait")}, {0.05: "yellow", 0.2: "red"}, max=1),
        stat("Unreachable", "Ranks that Prometheus cannot scrape, in all runs. Red from 1: the alert RankTargetDown"
             " fires after two minutes.", "suffix: ranks", {"all runs": promql.UNREACHABLE}, {1: "red"}),
    ]  # fmt: skip


def optimisation() -> list[Json]:
    """Return loss, error and learning rate; every rank has the values of the global batch, so any rank's will do."""
    levels = source_log.end_levels()
    edges = list(levels)
    unchanged = {"{{run}} skipped": of_run("skipped_batches_total"), "{{run}} diverged": of_run("nonfinite_loss_total")}
    return [
        graph("Loss", "Mean cross-entropy in nats, of the last logged global batch and of the validation set. No"
              " threshold: it depends on the set.", "suffix: nats",
              {"{{run}} training": of_run("loss"), "{{run}} validation": of_run("evaluation_loss")}, NO_THRESHOLD),
        graph("Error", "Fraction of wrong predictions; validation is on the centre view. No top-5 curve for fewer than"
              " six classes. No threshold: the bands say where a run of the paper's recipe has to arrive. They are"
              " errors at the end of the authors' runs, chosen with the variable paper's figures; by epoch none are"
              " published. "
              + source_log.sources(), "percentunit",
              {"{{run}} training top-1": of_run("top1_error"),
               "{{run}} validation top-1": of_run("evaluation_top1_error"),
               "{{run}} validation top-5": of_run("evaluation_top5_error"), **levels}, NO_THRESHOLD,
              overrides=[*band(edges[0], edges[1], "orange"), *band(edges[2], edges[3], "purple")], max=1),
        graph("Learning rate", "At the last logged step. Dashed: that of the authors' run at the same epoch, with the"
              " variable paper's figures; they lowered it by hand, as their comments say. No threshold: the schedule is"
              " the run's own.", "none",
              {"{{run}}": of_run("learning_rate"), "{{run}} in the source's log": source_log.learning_rate()},
              NO_THRESHOLD, log=True, overrides=[dashed("in the source's log")], min=None),
        graph("Skipped and diverged", "Batches that changed no weight, and steps after which training had diverged,"
              " since each process began. Red from 1: the alerts BatchesSkipped and NonFiniteLoss fire.",
              "suffix: steps",
              unchanged, {1: "red"}, decimals=0),
    ]  # fmt: skip


def checkpoints_and_faults() -> list[Json]:
    """Return whether checkpoints are written, there is room for them, and all ranks respond and make progress."""
    room = f"{promql.FREE_BYTES} / on (run) {promql.CHECKPOINT_BYTES}"
    return [
        stat("Last checkpoint", "Time since the last valid checkpoint; before it, since the process began. Yellow from"
             " one hour: so much work is lost if the run ends now. Red from two: the alert CheckpointTooOld fires.",
             "s",
             {"{{run}}": promql.CHECKPOINT_AGE}, {3600: "yellow", 7200: "red"}),
        stat("Size of a checkpoint", "Weights and velocities. No threshold: it depends on the net.", "bytes",
             {"{{run}}": promql.CHECKPOINT_BYTES}, NO_THRESHOLD),
        stat("Room for checkpoints", "Free space of the run directory's disk, in checkpoints. Red below 3: the alert"
             " DiskFilling fires. Yellow below 10: time to free space or to lower run.keep.", "suffix: checkpoints",
             {"{{run}}": room}, {3: "yellow", 10: "green"}, base="red"),
        stat("Failed checkpoints", "Since the process began. Red from 1: the alert CheckpointFailing fires, and the run"
             " ends when the next one fails too.", "suffix: failures",
             {"{{run}}": of_run("checkpoint_failures_total")}, {1: "red"}),
        stat("Restarts", "In the last 30 minutes. Yellow from 1: something ended the run. Red from 3: the alert"
             " RestartLoop fires.", "suffix: restarts", {"{{run}}": promql.RECENT_RESTARTS}, {1: "yellow", 3: "red"}),
        stat("All restarts", "Starts of the run besides its first, and those after a signal had asked it to stop. No"
             " threshold: over weeks some are expected.", "suffix: restarts",
             {"{{run}}": of_run("restarts"), "{{run}} after a signal": of_run("preemptions")}, NO_THRESHOLD),
        stat("Skipped batches", "Batches that changed no weight, since the process began. Yellow from 1: the alert"
             " BatchesSkipped fires.", "suffix: batches", {"{{run}}": of_run("skipped_batches_total")}, {1: "yellow"}),
        stat("Diverged steps", "Steps after which training had diverged, since the process began. Red from 1: the alert"
             " NonFiniteLoss fires.", "suffix: steps", {"{{run}}": of_run("nonfinite_loss_total")}, {1: "red"}),
        graph("Wait for a checkpoint", "Mean time for which training waited, over the checkpoints of each process. No"
              " threshold: it depends on net and disk.", "s", {"{{run}} {{op}}": promql.CHECKPOINT_MEAN}, NO_THRESHOLD),
        graph("Time in checkpoints", "Fraction of the time for which training waits for checkpoints. No threshold:"
              " raise run.save_every if it is more than you want to pay.", "percentunit",
              {"{{run}}": promql.CHECKPOINT_SHARE}, NO_THRESHOLD, max=1),
        graph("Free disk", "Of the run directory's disk. No threshold: Room for checkpoints has that of the alert.",
        "bytes",
              {"{{run}}": promql.FREE_BYTES}, NO_THRESHOLD),
        graph("Ranks up and world size", "Ranks that respond, of all replicas, and the number expected. No threshold:"
              " Ranks missing has that of the alert.", "suffix: ranks",
              {"{{run}} up": promql.RANKS_UP, "{{run}} world size": promql.WORLD_SIZE}, NO_THRESHOLD, decimals=0),
        graph("Since the last step, by rank", "A hung rank may still answer Prometheus; it shows here. Red from 900 s:"
              " the alert TrainingStalled fires if no rank has made a step since.", "s",
              {"{{run}} rank {{rank}}": promql.SINCE_LAST_STEP}, {900: "red"}),
    ]  # fmt: skip
