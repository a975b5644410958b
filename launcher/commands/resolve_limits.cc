// Time limits of the failure model and restart budgets, judged together.

#include <string>

#include "common/base/heartbeat.h"
#include "common/base/proto_duration.h"
#include "launcher/commands/resolve_parts.h"

namespace dsrun::launcher {
namespace {

struct Times {
  absl::Duration heartbeat, node, worker, agent, lease, grace, join, cause, collective, progress;
};

// Limits by class of operation (common/base/operation_class.h). From a second, since what a healthy
// disk does takes that long on a busy machine, to thirty days: nothing that is added to such a
// limit overflows.
void ResolveOperations(FlagValues& values, proto::Limits& limits) {
  const auto resolve = [&](const char* flag, absl::Duration otherwise,
                           google::protobuf::Duration* limit) {
    *limit = ToProto(values.Time(flag, absl::Seconds(1), absl::Hours(24 * 30)).value_or(otherwise));
  };
  resolve("first-step-timeout", absl::Minutes(10), limits.mutable_first_step_timeout());
  resolve("initialize-timeout", absl::Minutes(10), limits.mutable_initialize_timeout());
  resolve("load-timeout", absl::Minutes(30), limits.mutable_load_timeout());
  resolve("save-timeout", absl::Minutes(30), limits.mutable_save_timeout());
  resolve("commit-timeout", absl::Minutes(10), limits.mutable_commit_timeout());
  resolve("prune-timeout", absl::Minutes(10), limits.mutable_prune_timeout());
  resolve("evaluation-timeout", absl::Minutes(10), limits.mutable_evaluation_timeout());
}

// Limits that make no sense beside each other; each finding names both ends.
void CheckTogether(const Times& t, Findings& findings) {
  const auto text = [](absl::Duration d) { return absl::FormatDuration(d); };
  const auto at_least_three_beats = [&](const char* flag, absl::Duration value) {
    if (value >= 3 * t.heartbeat) return;
    findings.AddFlag(flag, text(value) + " is less than three heartbeats of " + text(t.heartbeat) +
                               " (--heartbeat-interval): one late message would look like a "
                               "death; use at least " +
                               text(3 * t.heartbeat));
  };
  at_least_three_beats("--node-silent-after", t.node);
  at_least_three_beats("--worker-silent-after", t.worker);
  at_least_three_beats("--agent-stalled-after", t.agent);
  at_least_three_beats("--progress-timeout", t.progress);
  if (t.lease <= t.node) {
    findings.AddFlag("--lease", text(t.lease) + " must be longer than --node-silent-after (" +
                                    text(t.node) +
                                    "): else workers stop before their node is lost");
  }
  if (t.join <= t.worker) {
    findings.AddFlag("--join-timeout", text(t.join) +
                                           " must be longer than --worker-silent-after (" +
                                           text(t.worker) + "): a dead rank is found by then");
  }
  if (t.cause >= t.join) {
    findings.AddFlag("--cause-grace",
                     text(t.cause) + " must be shorter than --join-timeout (" + text(t.join) + ")");
  }
}

}  // namespace

void ResolveLimits(ResolveContext& context) {
  FlagValues& v = context.values;
  const absl::Duration least = absl::Milliseconds(10);
  const absl::Duration most = absl::Hours(1);
  Times t;
  t.heartbeat =
      v.Time("heartbeat-interval", least, absl::Seconds(60)).value_or(kDefaultHeartbeatInterval);
  t.node =
      v.Time("node-silent-after", absl::Seconds(1), absl::Seconds(600)).value_or(absl::Seconds(3));
  t.worker = v.Time("worker-silent-after", least, most).value_or(absl::Seconds(3));
  t.agent = v.Time("agent-stalled-after", least, most).value_or(absl::Seconds(3));
  t.lease = v.Time("lease", least, 24 * most).value_or(absl::Seconds(30));
  t.grace = v.Time("stop-grace", absl::ZeroDuration(), most).value_or(absl::Seconds(15));
  t.join = v.Time("join-timeout", least, most).value_or(absl::Seconds(60));
  t.cause = v.Time("cause-grace", absl::ZeroDuration(), absl::Seconds(60))
                .value_or(absl::Milliseconds(250));
  t.collective = v.Time("collective-timeout", least, 24 * most).value_or(absl::Seconds(10));
  t.progress = v.Time("progress-timeout", least, 24 * most).value_or(absl::Seconds(30));
  CheckTogether(t, context.findings);

  proto::Limits& limits = *context.resolved.job.mutable_limits();
  *limits.mutable_heartbeat_interval() = ToProto(t.heartbeat);
  *limits.mutable_node_silent_after() = ToProto(t.node);
  *limits.mutable_worker_silent_after() = ToProto(t.worker);
  *limits.mutable_agent_stalled_after() = ToProto(t.agent);
  *limits.mutable_lease() = ToProto(t.lease);
  *limits.mutable_stop_grace() = ToProto(t.grace);
  *limits.mutable_join_timeout() = ToProto(t.join);
  *limits.mutable_cause_grace() = ToProto(t.cause);
  *limits.mutable_collective_timeout() = ToProto(t.collective);
  *limits.mutable_progress_timeout() = ToProto(t.progress);
  ResolveOperations(v, limits);
  const int64_t restarts = context.is_train() ? 100 : 0;
  limits.set_max_restarts(
      static_cast<int32_t>(v.Int("max-restarts", 0, 1000000).value_or(restarts)));
  *limits.mutable_restart_window() =
      ToProto(v.Time("restart-window", absl::ZeroDuration(), absl::Hours(24 * 366))
                  .value_or(absl::Hours(24)));
  limits.set_max_restarts_without_progress(
      static_cast<int32_t>(v.Int("max-restarts-without-progress", 0, 1000000).value_or(3)));
}

}  // namespace dsrun::launcher
