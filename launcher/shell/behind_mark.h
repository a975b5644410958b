// BehindMark: the file beside a journal that says that it has fallen behind its job (journal.h).
//
// Made at the start under another name, so that marking is a rename, which needs no room. It is the
// name that counts; what it says is for people. Like the journal itself it outlives the death of
// its process, not a power cut. Thread-safe: whoever follows, the file is in the end as the newest
// answer to `is_behind` says.

#ifndef DSRUN_LAUNCHER_SHELL_BEHIND_MARK_H_
#define DSRUN_LAUNCHER_SHELL_BEHIND_MARK_H_

#include <functional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file_system.h"
#include "common/base/mutex.h"

namespace dsrun::launcher {

class BehindMark {
 public:
  // `fs` outlives it.
  BehindMark(FileSystem& fs, std::string journal_path);

  // Makes the file, unmarked. Errors: those of FileSystem.
  absl::Status Prepare();

  // Marks or unmarks the journal. May block as long as its disk does.
  // An error: neither the rename nor a new file worked, nor taking away the journal's own name: it
  // is not marked, and looks whole.
  absl::Status Follow(const std::function<bool()>& is_behind);

  // Removes it, marked or not. Best effort.
  void Remove();

 private:
  absl::Status Mark() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Unmark() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  FileSystem& fs_;
  const std::string journal_;
  const std::string spare_;
  const std::string marked_;
  const std::string renamed_journal_;

  Mutex mu_;
  bool is_marked_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_BEHIND_MARK_H_
