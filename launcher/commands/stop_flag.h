// StopFlag: how a signal reaches a command that has something to undo. Until the command says so it
// may just end; while it has something half done the first signal asks it to leave off, and a
// second one does not wait for that.
//
// Thread-safe: signals are told by a thread of their own.

#ifndef DSRUN_LAUNCHER_COMMANDS_STOP_FLAG_H_
#define DSRUN_LAUNCHER_COMMANDS_STOP_FLAG_H_

#include <atomic>

namespace dsrun::launcher {

class StopFlag {
 public:
  // As long as it lives there is something to undo.
  class HalfDone {
   public:
    explicit HalfDone(StopFlag* flag) : flag_(flag) {
      if (flag_ != nullptr) flag_->half_done_ = true;
    }
    ~HalfDone() {
      if (flag_ != nullptr) flag_->half_done_ = false;
    }
    HalfDone(const HalfDone&) = delete;
    HalfDone& operator=(const HalfDone&) = delete;

   private:
    StopFlag* const flag_;
  };

  // A signal came. True: the process may end here and now.
  bool MayEndNow() { return !half_done_ || asked_.exchange(true); }
  // To leave off.
  bool asked() const { return asked_; }

 private:
  std::atomic<bool> half_done_ = false;
  std::atomic<bool> asked_ = false;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_STOP_FLAG_H_
