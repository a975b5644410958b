#include "tests/launcher/coordinator/twin.h"

#include <string>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "launcher/coordinator/describe.h"

namespace dsrun::launcher {
namespace {

std::string Exactly(const std::vector<Action>& actions) {
  std::string text;
  for (const Action& action : actions) absl::StrAppend(&text, launcher::Exactly(action), "\n");
  return text;
}

// Of two cores that should be the same.
std::string Difference(const Coordinator& core, const Coordinator& twin, const char* when) {
  if (core.DebugString() != twin.DebugString() || core.Digest() != twin.Digest()) {
    return absl::StrCat("a restored core has another state ", when, ":\n", twin.DebugString(),
                        "instead of\n", core.DebugString());
  }
  if (core.Snapshot() != twin.Snapshot()) {
    return absl::StrCat("a restored core has another snapshot ", when, "; its durable state:\n",
                        core.DebugString());
  }
  return "";
}

}  // namespace

std::string Exactly(const Action& action) {
  std::string text = Describe(action);
  if (const auto* send = std::get_if<SendToAgent>(&action)) {
    absl::StrAppend(&text, " ", send->Message().SerializeAsString());
  }
  if (const auto* end = std::get_if<EndJob>(&action)) {
    absl::StrAppend(&text, "\n", Describe(end->report));
  }
  return text;
}

TwinStep StepBesideTwin(Coordinator& core, absl::Duration now, const Event& event) {
  absl::StatusOr<Coordinator> twin = Coordinator::Restore(core.config(), core.Snapshot());
  if (!twin.ok()) {
    return {core.Step(now, event),
            absl::StrCat("a snapshot cannot be restored: ", std::string(twin.status().message()))};
  }
  std::string difference = Difference(core, *twin, "before a step");
  TwinStep step{core.Step(now, event), ""};
  const std::string expected = Exactly(step.actions);
  const std::string got = Exactly(twin->Step(now, event));
  if (difference.empty() && got != expected) {
    difference = absl::StrCat("a restored core does something else after ", Describe(event), ":\n",
                              got, "instead of\n", expected);
  }
  if (difference.empty()) difference = Difference(core, *twin, "after a step");
  step.difference = std::move(difference);
  return step;
}

}  // namespace dsrun::launcher
