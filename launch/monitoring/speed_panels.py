"""The rows of the dashboard about where time and other resources go."""

from __future__ import annotations

import promql
from grafana import NO_THRESHOLD, Json, graph, heatmap, stat
from promql import rate

BY_RANK = "{{run}} rank {{rank}} on {{node}}"
# Panels whose series a rank on a CPU does not show. The tests expect data in all panels that do not say this.
CUDA_ONLY = "CUDA only."


def throughput() -> list[Json]:
    """Return the throughput by run, replica and rank."""
    by_rank = f"sum by (run, replica, tower, rank) ({rate('images_total')})"
    by_replica = f"sum by (run, replica) ({rate('images_total')})"
    return [
        graph("By run", "Training images per second. No threshold: it depends on net and machine; the alert"
              " ThroughputDrop compares with the hour before.", "suffix: images/s", {"{{run}}": promql.IMAGES_PER_S},
              NO_THRESHOLD),
        graph("By replica", "Replicas step together: a slow one slows all of them. No threshold: see By run.",
              "suffix: images/s", {"{{run}} replica {{replica}}": by_replica}, NO_THRESHOLD),
        graph("By rank", "Each rank's share of its replica's images. No threshold: see By run.", "suffix: images/s",
              {"{{run}} rank {{rank}} (replica {{replica}}, tower {{tower}})": by_rank}, NO_THRESHOLD),
    ]  # fmt: skip


def step() -> list[Json]:
    """Return the breakdown of the step time."""
    quantiles = {f"{{{{run}}}} p{percent}": promql.step_quantile(percent / 100) for percent in (50, 90, 99)}
    buckets = f"sum by (le) (increase({promql.series('step_duration_seconds_bucket')}{promql.WINDOW}))"
    return [
        graph("Step time", "Over the chosen ranks; quantiles are interpolated within the histogram's buckets. No"
              " threshold: it depends on net and machine.", "s", quantiles | {"{{run}} mean": promql.MEAN_STEP},
              NO_THRESHOLD),
        graph("Mean step by phase", "Choose one run. The stacked phases add up to the step time. The rank that the"
              " others wait for waits least itself. No threshold: which phase is long depends on the machine.", "s",
              {"{{run}} {{phase}}": promql.MEAN_PHASE}, NO_THRESHOLD, stacked=True),
        heatmap("Steps by duration", "Choose one run. Steps of the chosen ranks, by bucket of the histogram: two bands"
                " are two kinds of steps, which a mean hides. No threshold: colours count steps.", "s", buckets),
    ]  # fmt: skip


def stragglers() -> list[Json]:
    """Return the panels that name the rank for which the others wait."""
    return [
        stat("Slowest rank", "The rank with the most own compute, relative to the median rank. Red from 1.1: the alert"
             " Straggler fires after ten minutes.", "suffix: x the median",
             {BY_RANK: f"topk by (run) (1, {promql.TO_MEDIAN})"}, {1.1: "red"}, decimals=2),
        graph("Own compute by rank", "Mean step time less the waits for images, the other tower and the other"
              " replicas. With train.cuda_graph the graph's waits are in it. No threshold: compare the ranks.", "s",
              {BY_RANK: promql.own_compute()}, NO_THRESHOLD),
        graph("Own compute, relative to the median rank", "Red from 1.1: the alert Straggler fires after ten minutes."
              " With two ranks the median is their mean.", "suffix: x the median", {BY_RANK: promql.TO_MEDIAN},
              {1.1: "red"},
              decimals=2, min=None),
        graph("Waits by rank", "Mean per step. The rank that the others wait for waits least for them. No threshold:"
              " compare the ranks.", "s", {"{{run}} rank {{rank}} {{phase}}": promql.MEAN_WAITS}, NO_THRESHOLD),
    ]  # fmt: skip


def link() -> list[Json]:
    """Return what crosses between the towers and what it costs."""
    direction = f"sum by (run, direction) ({rate('link_bytes_total')})"
    return [
        graph("Bytes by direction", "Bytes per second that the chosen ranks send to and receive from the other tower."
              " No threshold: it follows the throughput.", "binBps", {"{{run}} {{direction}}": direction},
              NO_THRESHOLD),
        graph("Link wait by join", "Wait for the link to the other tower that is not hidden by computation: mean per"
              " step and rank, by layer and pass. The next batch's pixels also use this link. No threshold: it depends"
              " on the link.", "s", {"{{run}} {{join}}": promql.MEAN_JOIN_WAIT}, NO_THRESHOLD, stacked=True),
        graph("Link-wait share", "Fraction of the step time spent waiting for the link. No threshold: it depends on net"
              " and link; 0 if the link is hidden.", "percentunit", {"{{run}}": promql.phase_share("link_wait")},
              NO_THRESHOLD, max=1),
    ]  # fmt: skip


def data() -> list[Json]:
    """Return whether the loader keeps up, and what it could not use."""
    reasons = f"sum by (run, reason) ({promql.series('bad_samples_total')})"
    by_rank = promql.phase_share("data_wait", promql.RANK)
    return [
        stat("Bad samples", "Fraction of the last hour's images that could not be used. Yellow from the first one; red"
             " from one of 10,000, where the alert BadSamples fires.", "percentunit", {"{{run}}": promql.BAD_SHARE},
             {1e-9: "yellow", 0.0001: "red"}, decimals=3),
        graph("Data-wait share", "Fraction of the step time spent waiting for decoded images; 0 if loading keeps up."
              " Red from 20 %: the alert DataStarvation fires after ten minutes.", "percentunit",
              {"{{run}}": promql.phase_share("data_wait")}, {0.2: "red"}, max=1),
        graph("Data-wait share by rank", "Shows whether it is one node. Red from 20 %: the alert DataStarvation looks"
              " at the mean of the run.", "percentunit", {BY_RANK: by_rank}, {0.2: "red"}, max=1),
        graph("Bad samples by reason", "Samples that could not be used and were replaced by others, since each process"
              " began. No threshold: the stat Bad samples has that of the alert.", "suffix: samples",
              {"{{run}} {{reason}}": reasons}, NO_THRESHOLD, decimals=0),
    ]  # fmt: skip


def resources() -> list[Json]:
    """Return what the ranks' processes use; loader processes are not in it."""
    return [
        graph("CPU by rank", "Cores that the rank's process uses, without its loader processes. No threshold: it"
              " depends on the cores that it was given.", "suffix: cores", {BY_RANK: promql.CPU_CORES}, NO_THRESHOLD),
        graph("Memory by rank", "Resident memory of the rank's process, without its loader processes; shared pages"
              " count in full. No threshold: the node's size is not known here.", "bytes",
              {BY_RANK: promql.MEMORY_BYTES},
              NO_THRESHOLD),
        graph("Open descriptors by rank", "Fraction of the process's limit (ulimit -n). Red from 80 %: at the limit,"
              " files and connections fail to open; raise it before. No alert.", "percentunit",
              {BY_RANK: promql.DESCRIPTORS}, {0.8: "red"}, max=1),
        graph("Arithmetic by rank", "Floating-point operations of the net per second, this rank's share; evaluations"
              " are not counted. No threshold: it depends on the device.", "flops",
              {BY_RANK: f"sum by ({promql.RANK}) ({rate('model_flops_total')})"}, NO_THRESHOLD),
        graph("Device memory by rank", f"{CUDA_ONLY} The most so far that torch's allocator has given to tensors, and"
              " has reserved. No threshold: the device's size is not known here.", "bytes",
              {BY_RANK + " {{kind}}": promql.series("device_memory_peak_bytes")}, NO_THRESHOLD),
        graph("Share of the peak by rank", f"{CUDA_ONLY} Arithmetic by rank, as a fraction of what the data sheet of"
              " the device promises in the run's precision; shown for the devices that monitoring/device.py knows. No"
              " threshold: it depends on net and batch.", "percentunit", {BY_RANK: promql.PEAK_SHARE}, NO_THRESHOLD,
              max=1),
    ]  # fmt: skip
