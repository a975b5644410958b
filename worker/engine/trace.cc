#include "worker/engine/trace.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace dsrun::worker {

void Trace::Add(Lane lane, const std::string& name, SteadyTime begin, SteadyTime end) {
  if (!enabled_) return;
  MutexLock lock(mu_);
  if (spans_.size() < kMaxSpans) spans_.push_back({lane, name, begin, end});
}

std::string Trace::Json() {
  MutexLock lock(mu_);
  std::string json = "[";
  for (const char* lane : {"compute", "communication"}) {
    absl::StrAppend(&json, "{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":", rank_,
                    ",\"tid\":", lane == std::string("compute") ? 0 : 1, ",\"args\":{\"name\":\"",
                    lane, "\"}},\n");
  }
  const char* separator = "";
  for (const Span& span : spans_) {  // names are ours: no character needs escaping
    absl::StrAppend(&json, separator,
                    absl::StrFormat("{\"ph\":\"X\",\"name\":\"%s\",\"pid\":%d,\"tid\":%d,"
                                    "\"ts\":%.1f,\"dur\":%.1f}",
                                    span.name, rank_, static_cast<int>(span.lane),
                                    absl::ToDoubleMicroseconds(span.begin),
                                    absl::ToDoubleMicroseconds(span.end - span.begin)));
    separator = ",\n";
  }
  // A trailing comma is not JSON: without spans the metadata's last one goes.
  if (spans_.empty()) json.resize(json.size() - 2);
  return json + "]\n";
}

}  // namespace dsrun::worker
