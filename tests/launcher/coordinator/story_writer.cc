#include "tests/launcher/coordinator/story_writer.h"

#include <string>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/sha256.h"
#include "launcher/shell/journal_codec.h"

namespace dsrun::launcher {

StoryWriter::StoryWriter(const CoordinatorConfig& config)
    : text_(absl::StrCat("> config ", ToJournal(config).ShortDebugString(), "\n")) {}

void StoryWriter::Add(absl::Duration now, const Event& event) {
  if (now_ != now) absl::StrAppend(&text_, "> at ", absl::FormatDuration(now), "\n");
  now_ = now;
  if (const auto* tick = std::get_if<Tick>(&event)) {
    absl::StrAppend(
        &text_, "> tick heard=",
        absl::StrJoin(tick->heard_from, ",",
                      [](std::string* out, NodeId node) { absl::StrAppend(out, node.value()); }),
        "\n");
  } else {
    absl::StrAppend(&text_, "> hear ", ToJournal(event).ShortDebugString(), "\n");
  }
}

std::string DigestLine(const Coordinator& coordinator) {
  return absl::StrCat("digest ", absl::Hex(coordinator.Digest()), ", of the whole state ",
                      Sha256Hex(coordinator.Snapshot()));
}

}  // namespace dsrun::launcher
