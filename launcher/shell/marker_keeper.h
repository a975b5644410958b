// MarkerKeeper: sees to it that the marker of the save folder (common/format/save_folder.h) is
// there as long as the job runs. A purge of old files, or somebody's `rm .dsrun*`, takes it away
// from a folder that is healthy, and every save would fail from then on.
//
// The marker is put back through a descriptor of the very folder that the job began with (the save
// lock's), never by path: what a path leads to may be the folder beneath a mount that has gone, and
// must not become the job's save folder. What the marker promises stays true.
//
// A thread of its own looks, because a file server that hangs must hold up nobody; at the end it is
// left behind if the system does not give it back.

#ifndef DSRUN_LAUNCHER_SHELL_MARKER_KEEPER_H_
#define DSRUN_LAUNCHER_SHELL_MARKER_KEEPER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/leavable_thread.h"

namespace dsrun::launcher {

// One look: true: the marker was gone, and is back. An error: it could be neither found nor put
// back.
using MarkerLook = std::function<absl::StatusOr<bool>()>;

// A look that gives the file `name` in `folder` the present time, by which whoever purges old files
// knows that it is in use, and puts it back with `content`, in one step, where it is not there. The
// look has a descriptor of its own. Empty: `folder` is no descriptor, or there is none left.
MarkerLook LookForMarker(int folder, const std::string& name, const std::string& content);

class MarkerKeeper {
 public:
  struct Options {
    absl::Duration every = absl::Seconds(2);
    absl::Duration patience = absl::Seconds(1);  // with a look that is under way at the end
  };

  // Looks at once, and then every so often; an empty look never. `say` gets a line for the operator
  // when the marker was put back (the first time, and then more and more seldom) and when it cannot
  // be (once for each reason); it must not block, and is not called after this object has ended.
  MarkerKeeper(MarkerLook look, std::function<void(const std::string&)> say, Options options);
  MarkerKeeper(MarkerLook look, std::function<void(const std::string&)> say)
      : MarkerKeeper(std::move(look), std::move(say), Options()) {}
  // No look begins after it.
  ~MarkerKeeper();

 private:
  struct Shared;

  const std::shared_ptr<Shared> shared_;
  LeavableThread thread_;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_MARKER_KEEPER_H_
