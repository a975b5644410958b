// A file system in the memory of this test, mounted by FUSE: real system calls of any process on
// storage that behaves as some network file systems do. The kernel's protocol is spoken directly
// (linux/fuse.h); no library is needed. Needs root and /dev/fuse; where that is not allowed, Mount
// says so, and the test is skipped with that reason.

#ifndef DSRUN_TESTS_INTEGRATION_FUSE_FOLDER_H_
#define DSRUN_TESTS_INTEGRATION_FUSE_FOLDER_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"

namespace dsrun {

class FuseFolder {
 public:
  struct Options {
    bool exclusive_rename = false;  // renameat2(RENAME_NOREPLACE); else EINVAL
    bool hard_links = false;        // else EPERM
    // link, rename and unlink are done, and answered as a server does that has been asked twice
    // because its first answer was lost: EEXIST, ENOENT, ENOENT.
    bool answers_twice = false;
    // A new name is not found, and in no list, for so many looks of threads other than its maker.
    int hidden_looks = 0;
    // Who looks for this name gets no answer until AnswerAll, and cannot be killed meanwhile: state
    // D. Empty: none.
    std::string unanswered = {};
    // This fsync of a file whose name begins with `synced`, counted from 1, is answered by LetGo;
    // who is killed meanwhile stays in state D. 0: all are answered at once.
    int held_sync = 0;
    std::string synced = "step-";  // the shards of a checkpoint
    // Writes to a file whose name begins with this wait from HoldWrites to LetGo, in state D.
    // Empty: none.
    std::string held_writes = {};
  };

  // In this test's own mount namespace (UseOwnMounts). Makes the folder.
  // Errors: PERMISSION_DENIED: not here.
  static absl::StatusOr<std::unique_ptr<FuseFolder>> Mount(const std::string& folder,
                                                           const Options& options);
  ~FuseFolder();

  // Whoever waits for `unanswered` is told that there is none, now and later. Needed before the
  // destructor, which waits for the kernel to let go of the folder.
  void AnswerAll();
  // How many wait for it.
  int64_t waiting() const { return waiting_; }
  // The thread whose fsync is held now; 0: none.
  uint32_t held_thread() const { return held_thread_; }
  void HoldWrites() { holds_writes_ = true; }
  // How many writes wait.
  int64_t writes_waiting() const { return writes_waiting_; }
  // Its fsync is done, and all writes are. Needed before the destructor, as AnswerAll.
  void LetGo();
  // From now on every name is shown.
  void ShowAll() { hides_ = false; }
  // What it did to its users so far: links and exclusive renames refused, answers changed, looks
  // that did not find what is there.
  int64_t refused() const { return refused_; }
  int64_t answered_twice() const { return answered_twice_; }
  int64_t hidden() const { return hidden_; }

 private:
  struct Request;
  struct Name {
    uint64_t node = 0;
    uint32_t maker = 0;  // thread
    int looks_left = 0;
  };
  struct Node {
    bool is_folder = false;
    uint32_t mode = 0;
    uint32_t links = 1;
    std::string data;
    std::string made_as;                // its first name
    std::map<std::string, Name> names;  // of a folder
  };

  FuseFolder(std::string folder, const Options& options, int fd);
  void Serve();
  void Answer(const Request& request);
  void ReplyError(uint64_t unique, int error);
  void Reply(uint64_t unique, const void* data, size_t size);
  void ReplyEntry(uint64_t unique, uint64_t node, bool opened);
  void ReplyAttributes(uint64_t unique, uint64_t node);
  bool IsSeen(Name& name, uint32_t thread);
  uint64_t Add(uint64_t parent, const std::string& name, const Node& node, uint32_t thread);
  void Lookup(const Request& request);
  void SetAttributes(const Request& request);
  void ReadNames(const Request& request);
  void Rename(const Request& request, uint64_t to_folder, const char* names, bool exclusive);
  void Link(const Request& request);
  void Unlink(const Request& request);
  void Sync(const Request& request);
  void Write(const Request& request);
  void ReplyWritten(uint64_t unique, uint32_t size);

  const std::string folder_;
  const Options options_;
  const int fd_;
  std::map<uint64_t, Node> nodes_;  // of the serving thread; never freed: tests write little
  uint64_t next_node_ = 2;
  std::atomic<bool> hides_ = true;
  std::atomic<int64_t> waiting_ = 0;
  std::mutex unanswered_mu_;
  bool answers_all_ = false;               // guarded
  std::vector<uint64_t> unanswered_ = {};  // guarded: requests
  int syncs_ = 0;                          // of the serving thread: of files that count
  std::atomic<bool> holds_writes_ = false;
  std::atomic<int64_t> writes_waiting_ = 0;
  std::map<uint64_t, uint32_t> held_writes_ = {};  // guarded by unanswered_mu_: request to bytes
  std::atomic<uint64_t> held_request_ = 0;
  std::atomic<uint32_t> held_thread_ = 0;
  std::atomic<int64_t> refused_ = 0;
  std::atomic<int64_t> answered_twice_ = 0;
  std::atomic<int64_t> hidden_ = 0;
  std::thread server_;
};

}  // namespace dsrun

#endif  // DSRUN_TESTS_INTEGRATION_FUSE_FOLDER_H_
