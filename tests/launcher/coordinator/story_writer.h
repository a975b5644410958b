// The events of a run as a story (story_player.h): what a simulated cluster's coordinator heard
// becomes a script that can be played, read, cut down by hand and kept in stories/.
//
//   StoryWriter story(coordinator.config());
//   story.Add(now, event);   // in the order of Step; not what the core raised, the player does
//   that PlayStory(story.text())
//
// The events stand in it whole, in the text form of proto/journal.proto.

#ifndef DSRUN_TESTS_LAUNCHER_COORDINATOR_STORY_WRITER_H_
#define DSRUN_TESTS_LAUNCHER_COORDINATOR_STORY_WRITER_H_

#include <optional>
#include <string>

#include "absl/time/time.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/coordinator/events.h"

namespace dsrun::launcher {

class StoryWriter {
 public:
  explicit StoryWriter(const CoordinatorConfig& config);
  void Add(absl::Duration now, const Event& event);
  const std::string& text() const { return text_; }

 private:
  std::optional<absl::Duration> now_;
  std::string text_;
};

// Hashes of the durable state and of the whole: what the command `digest` prints.
std::string DigestLine(const Coordinator& coordinator);

}  // namespace dsrun::launcher

#endif  // DSRUN_TESTS_LAUNCHER_COORDINATOR_STORY_WRITER_H_
