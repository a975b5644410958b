// Which tensors a job leaves as they are: --freeze.

#include <set>
#include <string>
#include <vector>

#include "common/base/escaped.h"
#include "common/config/nearest.h"
#include "common/model/model_plan.h"
#include "common/model/name_pattern.h"
#include "launcher/commands/resolve_parts.h"

namespace dsrun::launcher {

std::string NearNames(const std::string& pattern, const std::vector<std::string>& names) {
  constexpr size_t kMostNamed = 8;
  const std::string near = DidYouMean(pattern, names);
  if (!near.empty()) return near;
  std::string text = "; there are ";
  for (size_t i = 0; i < names.size() && i < kMostNamed; ++i) {
    text += (i == 0 ? "" : ", ") + names[i];
  }
  return text + (names.size() > kMostNamed ? ", ..." : "");
}

void ResolveFreeze(ResolveContext& context, const ModelSpec& model) {
  std::vector<std::string> names;
  for (const LogicalTensor& tensor : LogicalTensors(model)) names.push_back(tensor.name);
  std::set<std::string> frozen;
  for (const std::string& pattern : context.values.Texts("freeze")) {
    const auto matching = MatchingNames(pattern, names);
    if (!matching.ok()) {
      context.findings.AddFlag("--freeze", "expected a regular expression (ECMAScript), got " +
                                               Quoted(pattern) + ": " +
                                               std::string(matching.status().message()));
    } else if (pattern.empty() || matching->empty()) {
      context.findings.AddFlag("--freeze", "no tensor of the model matches " + Quoted(pattern) +
                                               NearNames(pattern, names));
    } else {
      frozen.insert(matching->begin(), matching->end());
    }
  }
  if (frozen.size() == names.size()) {
    context.findings.AddFlag("--freeze", "freezes all " + std::to_string(names.size()) +
                                             " tensors of the model: nothing is left to train; "
                                             "freeze fewer");
    return;
  }
  for (const std::string& name : names) {  // in the model's order
    if (frozen.contains(name)) context.resolved.job.mutable_train()->add_frozen(name);
  }
}

}  // namespace dsrun::launcher
