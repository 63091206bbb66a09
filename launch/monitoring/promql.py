"""The PromQL expressions of the dashboard."""

from __future__ import annotations

WINDOW = "[$__rate_interval]"
RUN = '{job=~"$job", run=~"$run"}'
CHOSEN = ("node", "replica", "tower", "rank")
RANKS = RUN.replace("}", "".join(f', {name}=~"${name}"' for name in CHOSEN) + "}")
RANK, WAITS = "run, node, replica, tower, rank", "data_wait|link_wait|allreduce_wait"
# The filter of each variable's choices: by the variables chosen before it.
CHOICES = {"job": "", "run": '{job=~"$job"}'}
CHOICES |= {name: RANKS.partition(f", {name}=")[0] + "}" for name in CHOSEN}


def series(name: str, ranks: str = RANKS) -> str:
    """Return the PromQL selector of one of our metrics, for the runs and ranks chosen on the dashboard."""
    return f"alexnet_train_{name}{ranks}"


def rate(name: str, ranks: str = RANKS) -> str:
    """Return the PromQL rate of a counter, per second."""
    return f"rate({series(name, ranks)}{WINDOW})"


def of_run(name: str, ranks: str = RANKS) -> str:
    """Return the PromQL of a metric of which all ranks of a run have the same value, or the highest one counts."""
    return f"max by (run) ({series(name, ranks)})"


def phase_rate(matcher: str, phases: str, ranks: str = RANKS) -> str:
    """Return the PromQL rate of the time in some phases, in seconds per second; matcher: =, =~ or !~."""
    return rate("phase_seconds_total", ranks.replace("{", f'{{phase{matcher}"{phases}", '))


def own_compute(ranks: str = RANKS) -> str:
    """Return the PromQL of each rank's mean step time less its waits, in seconds.

    All steps of a run are as long as those of its slowest rank: the others wait for it.
    """
    working = phase_rate("!~", WAITS, ranks)
    return f"sum by ({RANK}) ({working}) / sum by ({RANK}) ({rate('steps_total', ranks)})"


def phase_share(phase: str, labels: str = "run") -> str:
    """Return the PromQL of one phase's share of the step time."""
    return f"sum by ({labels}) ({phase_rate('=', phase)}) / sum by ({labels}) ({rate('phase_seconds_total')})"


def step_quantile(quantile: float) -> str:
    """Return the PromQL of a quantile of the step time, over the chosen ranks of each run."""
    return f"histogram_quantile({quantile}, sum by (run, le) ({rate('step_duration_seconds_bucket')}))"


def of_process(expression: str) -> str:
    """Return the PromQL of a process_ series of the chosen ranks, with the labels of its rank.

    Those series have only the labels of the scrape. Our series of the same scrape name the rank; world_size is one that
    each rank always shows.
    """
    return f"{expression} * on (job, instance) group_left ({RANK}) ({series('world_size')} > bool 0)"


# Of the chosen jobs: a Prometheus that scrapes other programs has series of these names from them too.
JOB = '{job=~"$job"}'
CPU_CORES = of_process(f"rate(process_cpu_seconds_total{JOB}{WINDOW})")
MEMORY_BYTES = of_process(f"process_resident_memory_bytes{JOB}")
DESCRIPTORS = of_process(f"process_open_fds{JOB} / process_max_fds{JOB}")

PEAK_SHARE = f"sum by ({RANK}) ({rate('model_flops_total')}) / sum by ({RANK}) ({series('device_peak_flops')})"

IMAGES_PER_S = f"sum by (run) ({rate('images_total')})"
MEAN_STEP = f"sum by (run) ({rate('step_duration_seconds_sum')}) / sum by (run) ({rate('step_duration_seconds_count')})"
MEAN_PHASE = (
    f"sum by (run, phase) ({rate('phase_seconds_total')}) / on (run) group_left () sum by (run) ({rate('steps_total')})"
)
MEAN_WAITS = (
    f"sum by (run, rank, phase) ({phase_rate('=~', WAITS)})"
    f" / on (run, rank) group_left () sum by (run, rank) ({rate('steps_total')})"
)
# The median is that of the whole run, whatever is chosen.
TO_MEDIAN = f"({own_compute()}) / on (run) group_left () quantile by (run) (0.5, {own_compute(RUN)})"
MEAN_JOIN_WAIT = (
    f"sum by (run, join) ({rate('link_wait_seconds_total')}) / ignoring (join) group_left sum by (run)"
    f" ({rate('steps_total')})"
)
# A series disappears as soon as its scrape fails, so counting is enough. Both cover the whole run, whatever is chosen.
RANKS_UP = f"count by (run) ({series('running', RUN)})"
WORLD_SIZE = of_run("world_size", RUN)
SINCE_LAST_STEP = f"time() - {series('last_step_timestamp_seconds')}"
UNREACHABLE = f"count(up{JOB} == 0) or vector(0)"
# Over an hour, as in the alert BadSamples: single ones are expected in a large set.
BAD_SHARE = (
    f"sum by (run) (increase({series('bad_samples_total')}[1h]))"
    f" / sum by (run) (increase({series('images_total')}[1h]))"
)
# Only rank 0 shows the disk and the size; they are shown whatever ranks are chosen.
CHECKPOINT_BYTES = of_run("checkpoint_size_bytes", RUN)
FREE_BYTES = f"min by (run) ({series('run_disk_free_bytes', RUN)})"
CHECKPOINT_AGE = f"time() - {of_run('last_checkpoint_timestamp_seconds')}"
# No curve, rather than one of NaN, for what has not happened yet.
CHECKPOINT_MEAN = (
    f"sum by (run, op) ({series('checkpoint_duration_seconds_sum')})"
    f" / (sum by (run, op) ({series('checkpoint_duration_seconds_count')}) > 0)"
)
CHECKPOINT_SHARE = f"avg by (run) ({rate('checkpoint_duration_seconds_sum')})"
RESTARTS = series("restarts") + "[30m]"
RECENT_RESTARTS = f"max by (run) (last_over_time({RESTARTS})) - min by (run) (min_over_time({RESTARTS}))"
