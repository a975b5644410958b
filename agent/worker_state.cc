#include "agent/worker_state.h"

namespace dsrun::agent {

const char* WorkerStateName(WorkerState state) {
  switch (state) {
    case WorkerState::kEmpty:
      return "empty";
    case WorkerState::kStarting:
      return "starting";
    case WorkerState::kUp:
      return "up";
    case WorkerState::kConnected:
      return "connected";
    case WorkerState::kFinished:
      return "finished";
    case WorkerState::kStopping:
      return "stopping";
  }
  return "?";
}

std::ostream& operator<<(std::ostream& out, WorkerState state) {
  return out << WorkerStateName(state);
}

}  // namespace dsrun::agent
